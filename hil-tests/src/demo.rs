//! `cargo demo`: one device's whole life, on real parts, on this machine only.
//!
//! Each step acts through the programs a person would use, then looks at the board's serial log and the
//! server's answers; it holds only if both say what the design says. Every figure is from this run.

mod life;
mod show;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};

use crate::{
    process::{self, ProcessError},
    rig::{Parts, Ports, Rig},
    screen::Screen,
};
use life::Life;
pub use show::{Show, Told};

/// How the demo is to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// End by itself, instead of leaving the server and a fresh board running.
    pub once: bool,
    /// One JSON line a step instead of the story.
    pub json: bool,
    /// Wait for Enter before each step.
    pub stepwise: bool,
    /// Leave the temporary folder where it is.
    pub keep: bool,
    /// The folder to work in; a temporary one unless given.
    pub data_dir: Option<PathBuf>,
    /// Where the server listens.
    pub ports: Ports,
}

/// How a demo ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Every step went as designed.
    Held,
    /// A step did not.
    Differs,
    /// Somebody pressed Ctrl-C before the last step.
    Interrupted,
}

/// Runs the demo.
///
/// # Errors
/// When it cannot begin: a port is taken, something is missing on this machine.
pub fn demo(screen: Screen, options: &Options) -> Result<End> {
    process::catch_interrupts().context("signals cannot be caught")?;
    options.ports.check()?;
    let parts = Parts::make(&mut |text| eprintln!("{text}"))?;
    let mut rig = Rig::open(&parts, options.data_dir.as_deref())?;
    if options.keep {
        rig.keep();
    }
    let mut show = Show::new(screen, options.json, options.stepwise);
    show.say("Muster demo: one device's whole life, on this machine only. Ctrl-C cleans up.\n");
    let end = {
        let mut life = Life::new(&rig, options.ports)?;
        let told = tell(&mut show, &mut life, options.once);
        let ended = life.end();
        match told {
            Err(fault) if is_interrupt(&fault) => {
                show.say("\nstopped; everything that ran has ended");
                // Ctrl-C is also how a person leaves what was left running.
                if show.is_closed() && show.held() { End::Held } else { End::Interrupted }
            }
            Err(fault) => return Err(fault),
            Ok(()) => {
                ended?;
                if show.held() { End::Held } else { End::Differs }
            }
        }
    };
    if end == End::Differs {
        rig.keep();
        eprintln!("logs and data are kept in {}", rig.dir().display());
    } else if options.keep || options.data_dir.is_some() {
        show.say(&format!("data and logs: {}", rig.dir().display()));
    }
    Ok(end)
}

/// Tells the life; unless it is to end by itself, keeps the server and another board running.
fn tell(show: &mut Show, life: &mut Life<'_>, once: bool) -> Result<()> {
    life.tell(show)?;
    show.close();
    if once || !show.held() {
        return Ok(());
    }
    life.welcome_another(show)?;
    while life.is_well() {
        process::pause(Duration::from_secs(1))?;
    }
    anyhow::bail!("the server or the board ended by itself:\n{}", life.last_words())
}

fn is_interrupt(fault: &anyhow::Error) -> bool {
    matches!(fault.downcast_ref(), Some(ProcessError::Interrupted))
}
