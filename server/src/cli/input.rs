//! Standard input. Where `--no-input` was said, nobody is waited for who would have to type: what comes from a
//! file or another program is still read.

use std::io::{self, IsTerminal as _, Read as _};

use muster_shared::Code;

use super::screen::Screen;
use crate::api::error::Problem;

/// Reads at most `max` octets and one more, by which the caller sees that there is too much.
pub(super) fn octets(max: u64, screen: &Screen) -> Result<Vec<u8>, Problem> {
    unattended(screen)?;
    let mut octets = Vec::new();
    io::stdin().lock().take(max + 1).read_to_end(&mut octets).map_err(|error| unreadable(&error))?;
    Ok(octets)
}

/// Refuses to wait for a person, where that was said. Call it before anything is read from standard input.
pub(super) fn unattended(screen: &Screen) -> Result<(), Problem> {
    allowed(screen.no_input, io::stdin().is_terminal())
}

fn allowed(no_input: bool, terminal: bool) -> Result<(), Problem> {
    if !(no_input && terminal) {
        return Ok(());
    }
    Err(Problem::new(Code::UsageWrong)
        .what("this needs something on standard input, and --no-input says that nobody is there to type it")
        .at("standard input")
        .because("standard input is a terminal")
        .next("give it a file or another program's output: … < FILE"))
}

/// Standard input that cannot be read.
pub(super) fn unreadable(error: &io::Error) -> Problem {
    Problem::new(Code::FileUnreadable).at("standard input").because(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_waited_for_where_nobody_is() {
        for (no_input, terminal, fits) in
            [(true, true, false), (true, false, true), (false, true, true), (false, false, true)]
        {
            assert_eq!(allowed(no_input, terminal).is_ok(), fits, "{no_input} {terminal}");
        }
        assert_eq!(allowed(true, true).unwrap_err().exit(), 2);
    }
}
