//! The test bench: the real image in QEMU, beside the real server and the real factory tool.
//!
//! This crate sees every other one; none sees it. It runs their programs and says what it saw.
//!
//! | module | is |
//! |---|---|
//! | [`demo`] | one device's whole life, step by step, for a person (`cargo demo`) |
//! | [`mod@bench`] | what things cost, beside their floor and their peers (`cargo hil bench`) |
//! | [`verify`] | what every change must pass (`cargo verify`) |
//! | [`rig`], [`fleet`] | one folder with a ceremony, a server, a factory and boards; a rig from a file, kept running |
//! | [`qemu`], [`flash`] | a board: its emulator, its flash file and what a flasher writes there |
//! | [`workbench`] | a board on a desk, and a station held by hand |
//! | [`cable`] | a factory cable held by hand: frames, and what is none |
//! | [`hostile`] | a TLS server that breaks the rules, and the table of its attacks |
//! | [`process`] | a child that has deadlines, a log, and no life after its parent's |
//! | [`toolchain`], [`packages`], [`workspace`], [`image`] | how the image comes to be on this machine |
//! | [`screen`] | what a person reads |
//!
//! # Invariants
//!
//! - Every wait has a deadline, and no process or file of a run is left behind.
//! - A figure that is shown was measured in this run.
//! - Nothing listens or connects outside this machine's loopback.
//! - A test that boots a board lives in a module named `qemu`, one that runs the real programs in
//!   `programs`: they run one at a time.

#![forbid(unsafe_code)]

pub mod bench;
pub mod cable;
pub mod demo;
pub mod flash;
pub mod fleet;
pub mod hostile;
pub mod image;
pub mod packages;
pub mod process;
pub mod qemu;
pub mod rig;
pub mod screen;
pub mod toolchain;
pub mod verify;
pub mod workbench;
pub mod workspace;
