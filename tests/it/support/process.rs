//! Signals to other processes, by the system call. The `kill` program of procps 4.0.2 takes `-1234` for the digit 1 and
//! signals process -1, which is every process of the machine.

use rustix::process::{Pid, kill_process, kill_process_group};

pub use rustix::process::Signal;

/// Sends a signal to one process. Whether it was there.
pub fn signal(id: u32, signal: Signal) -> bool {
    kill_process(pid(id), signal).is_ok()
}

/// Sends a signal to all processes of a group, which bears the number of its first one.
pub fn signal_group(id: u32, signal: Signal) -> bool {
    kill_process_group(pid(id), signal).is_ok()
}

fn pid(id: u32) -> Pid {
    let id = i32::try_from(id).unwrap();
    assert!(id > 1, "process {id} is none of ours");
    Pid::from_raw(id).unwrap()
}
