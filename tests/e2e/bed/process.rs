//! A program that runs for a test, its log in the bed, killed by its id when dropped.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::bed::{Bed, tail, wait_for};

pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Both outputs go to `<name>.log`. Standard input is a pipe that closes with this.
    pub fn spawn(bed: &Bed, name: &str, command: &mut Command) -> Self {
        let log = bed.dir().join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let child = command
            .stdin(Stdio::piped())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .process_group(0)
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("{name} ({command:?}): {error}"));
        Self {
            name: name.to_owned(),
            child,
            log,
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        tail(&self.log, usize::MAX)
    }

    /// `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    #[track_caller]
    pub fn assert_running(&mut self) {
        if let Some(status) = self.ended() {
            panic!("{} ended: {status}\n{}", self.name, tail(&self.log, 25));
        }
    }

    /// Waits for its own end.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_for(&what, limit, || self.ended())
    }

    /// Waits until it listens, or panics with its log if it ends instead.
    #[track_caller]
    pub fn wait_ready(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) {
        let what = format!("{} to be ready", self.name);
        wait_for(&what, limit, || {
            let up = ready();
            if !up {
                self.assert_running();
            }
            up.then_some(())
        });
    }

    /// SIGKILL, to it and its children, and waits for its end.
    pub fn kill(&mut self) {
        kill_process_group(self.pid(), Signal::KILL).ok();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// SIGTERM, then waits.
    #[track_caller]
    pub fn stop(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that was waited for has given its id back: it may be somebody else's now.
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.kill();
        }
    }
}

/// `outer` with all of `inner` behind it: its program, words and environment.
pub fn wrap(mut outer: Command, inner: &Command) -> Command {
    outer.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}
