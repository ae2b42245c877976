//! Processes of their own.
//!
//! A measurement starts its own program again with the arguments `child NAME ...`; that process does one thing, measures itself and prints one
//! line `RESULT name=value ...`. So the CPU time and memory of a client are not mixed with those of servers and helpers in the parent.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What a process found, by name.
#[derive(Debug, Clone, Default)]
pub struct Values(BTreeMap<String, f64>);

impl Values {
    /// With this value too.
    #[must_use]
    pub fn with(mut self, name: &str, value: f64) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    /// The value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("the process did not tell {name}"))
    }
}

/// One client, run once.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Seconds.
    pub wall: f64,
    /// CPU seconds of the process, all threads, user and system.
    pub cpu: f64,
}

impl Run {
    /// Work for a child: does it, and measures it.
    pub fn measure<T>(work: impl FnOnce() -> T) -> (T, Self) {
        let (start, cpu) = (Instant::now(), cpu_time());
        let done = work();
        let run = Self { wall: start.elapsed().as_secs_f64(), cpu: (cpu_time() - cpu).as_secs_f64() };
        (done, run)
    }

    /// Into values.
    #[must_use]
    pub fn values(self) -> Values {
        Values::default().with("wall", self.wall).with("cpu", self.cpu)
    }
}

impl From<&Values> for Run {
    fn from(values: &Values) -> Self {
        Self { wall: values.get("wall"), cpu: values.get("cpu") }
    }
}

/// CPU time of this process so far.
#[must_use]
pub fn cpu_time() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// Memory of this process by the kernel's count.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Resident now, bytes.
    pub now: u64,
    /// Resident at most so far, bytes.
    pub peak: u64,
}

impl Memory {
    /// As it is now; zero where there is no `/proc`.
    #[must_use]
    pub fn read() -> Self {
        let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kilobytes = |name: &str| -> u64 {
            let line = text.lines().find_map(|l| l.strip_prefix(name));
            line.and_then(|l| l.trim_start_matches(':').trim().split(' ').next()?.parse().ok()).unwrap_or(0)
        };
        Self { now: kilobytes("VmRSS") * 1024, peak: kilobytes("VmHWM") * 1024 }
    }

    /// Lets the peak begin anew at what is resident now.
    pub fn reset_peak() {
        let _ = std::fs::write("/proc/self/clear_refs", "5"); // proc(5): resets the peak resident set size
    }
}

/// In a child: its name and arguments.
#[must_use]
pub fn task() -> Option<(String, Vec<String>)> {
    let mut args = std::env::args().skip(1);
    (args.next()? == "child").then(|| (args.next().unwrap_or_default(), args.collect()))
}

/// In a child: tells the parent.
pub fn report(values: &Values) {
    let pairs: Vec<String> = values.0.iter().map(|(k, v)| format!("{k}={v}")).collect();
    println!("RESULT {}", pairs.join(" "));
}

/// Starts this program as a child and waits for what it tells.
#[must_use]
pub fn run(name: &str, args: &[String]) -> Values {
    run_with(name, args, None)
}

/// The same with one more variable in its environment.
#[must_use]
pub fn run_with(name: &str, args: &[String], variable: Option<(&str, &str)>) -> Values {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.arg("child").arg(name).args(args).envs(variable).stderr(Stdio::inherit());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|l| l.strip_prefix("RESULT "));
    let line =
        line.unwrap_or_else(|| panic!("child {name} {args:?}: {} and no result: {text}", output.status));
    let pairs = line.split(' ').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    Values(pairs.collect())
}

/// Runs another program whole; `None` when it is not there or fails. Its output is not looked at.
#[must_use]
pub fn other_program(program: &str, args: &[&str]) -> Option<Run> {
    // bash times its child with getrusage, in milliseconds
    let script = "TIMEFORMAT='TIMES %R %U %S'; time \"$@\" >/dev/null 2>/dev/null";
    let output = Command::new("bash")
        .args(["-c", script, "bash", program])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut times = text.lines().find_map(|l| l.strip_prefix("TIMES "))?.split(' ').map(str::parse::<f64>);
    let mut next = || times.next()?.ok();
    Some(Run { wall: next()?, cpu: next()? + next()? })
}

/// Where a program is, also in the folders that only root has in its path.
#[must_use]
pub fn find_program(name: &str) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"])
        .map(|folder| format!("{folder}/{name}"))
        .find(|file| std::path::Path::new(file).is_file())
}
