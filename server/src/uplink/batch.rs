//! What becomes of each message of a batch, if the commit succeeds. Pure: verdicts, windows and the time in,
//! one segment and one outcome a message out.

use muster_shared::Code;

use super::{Message, Outcome, Position, dedup::Windows, segment};
use crate::registry::Verdicts;

/// A batch, planned.
#[derive(Debug)]
pub(super) struct Plan {
    /// The segment to commit.
    pub(super) body: Vec<u8>,
    /// Messages in it; with none there is nothing to commit.
    pub(super) count: u32,
    /// One a message, in order; true when the commit has succeeded.
    pub(super) outcomes: Vec<Outcome>,
}

/// Plans a batch whose first stored message gets position `first`. Enters what it stores into `windows`:
/// when the commit fails they are to be read back from the log.
pub(super) fn plan<'m>(
    messages: impl Iterator<Item = &'m Message>,
    verdicts: &Verdicts,
    windows: &mut Windows,
    first: Position,
    now_s: i64,
) -> Plan {
    let mut plan = Plan { body: segment::begin(), count: 0, outcomes: Vec::new() };
    for message in messages {
        let outcome = match refusal(verdicts, message, now_s) {
            Some(code) => Outcome::Refused(code),
            None => store(&mut plan, verdicts, windows, first, message),
        };
        plan.outcomes.push(outcome);
    }
    plan
}

/// The verdict is read here, after the batch has begun and before its commit: a decision that flipped it
/// earlier is obeyed, and one that flips it later waits in the barrier until this batch has ended.
fn refusal(verdicts: &Verdicts, message: &Message, now_s: i64) -> Option<Code> {
    verdicts.may_talk(message.device, &message.certificate, now_s).err()
}

fn store(
    plan: &mut Plan,
    verdicts: &Verdicts,
    windows: &mut Windows,
    first: Position,
    message: &Message,
) -> Outcome {
    if let Some((boot, seq)) = message.name
        && let Some(position) = windows.find(message.device, boot, seq)
    {
        return Outcome::Duplicate(position);
    }
    let position = Position(first.0 + u64::from(plan.count));
    segment::push(&mut plan.body, &verdicts.name(message.device), message);
    plan.count += 1;
    if let Some((boot, seq)) = message.name {
        windows.put(message.device, boot, seq, position);
    }
    Outcome::Stored(position)
}
