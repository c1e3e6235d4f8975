//! The same work for each of many items, on all processors: signatures take most of the time of an import.

use std::{num::NonZero, panic::resume_unwind, thread};

/// Items below which another thread costs more than it saves: about a millisecond of signatures.
const SHARE_MIN: usize = 32;

/// What `work` makes of each item, in the items' order. Blocks until all is done; it is told each item's place.
pub fn map<T: Send, R: Send>(mut items: Vec<T>, work: impl Fn(usize, T) -> R + Sync) -> Vec<R> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let share = items.len().div_ceil(processors).max(SHARE_MIN);
    thread::scope(|scope| {
        let work = &work;
        let mut shares = Vec::new();
        while items.len() > share {
            // From the end: what is left stays where it is.
            let at = (items.len() - 1) / share * share;
            let some = items.split_off(at);
            shares.push(scope.spawn(move || each(at, some, work)));
        }
        let mut all = each(0, items, work);
        for share in shares.into_iter().rev() {
            all.extend(share.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        all
    })
}

fn each<T, R>(first: usize, items: Vec<T>, work: &impl Fn(usize, T) -> R) -> Vec<R> {
    (first..).zip(items).map(|(at, item)| work(at, item)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_comes_out_once_in_its_place() {
        for count in [0, 1, SHARE_MIN, SHARE_MIN + 1, 3 * SHARE_MIN, 1000, 1001] {
            let done = map((0..count).collect(), |at, item: usize| (at, item));
            assert!(done.iter().copied().eq((0..count).map(|at| (at, at))), "{count}");
        }
    }

    #[test]
    #[should_panic(expected = "item 900")]
    fn a_panic_in_the_work_is_the_callers() {
        map((0..1000).collect(), |_, item: usize| assert_ne!(item, 900, "item 900"));
    }
}
