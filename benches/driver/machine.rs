//! Description of the machine, and ids of the measured processes.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use rpc_benches::contender::Outcome;
use rpc_tests::broker::Node;

use super::run::Pace;

/// Returns the process id of a node: of Erlang's virtual machine, whose home is the node's folder.
pub(crate) fn broker_pid(node: &Node) -> Outcome<u32> {
    let home = node.folder().display().to_string();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        let program = arguments.split('\0').next().unwrap_or_default();
        if program.ends_with("beam.smp") && arguments.contains(&home) {
            return Ok(pid);
        }
    }
    Err("the process of the RabbitMQ node was not found".into())
}

/// CPU time since the machine was started, in Linux's units.
pub(crate) struct Times {
    all: u64,
    stolen: u64,
}

pub(crate) fn times() -> Outcome<Times> {
    // https://www.kernel.org/doc/html/latest/filesystems/proc.html#miscellaneous-kernel-statistics-in-proc-stat
    let text = fs::read_to_string("/proc/stat")?;
    let fields = text.lines().next().unwrap_or_default().split_whitespace();
    let fields = fields
        .skip(1)
        .take(8)
        .map(str::parse)
        .collect::<Result<Vec<u64>, _>>()?;
    Ok(Times {
        all: fields.iter().sum(),
        stolen: fields.get(7).copied().unwrap_or_default(),
    })
}

impl Times {
    /// Returns the share of steal time: time that the host of a virtual machine gave to others.
    pub(crate) fn stolen_since(&self, before: &Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        self.stolen.saturating_sub(before.stolen) as f64 / all as f64
    }
}

/// Describes the machine, the date and the versions.
pub(crate) fn describe(node: &Node, pace: Pace) -> Outcome<String> {
    let log = node.log();
    let rabbitmq = log
        .lines()
        .find_map(|line| Some(line.split_once("Starting RabbitMQ ")?.1))
        .unwrap_or("unknown");
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let cpu = cpu
        .lines()
        .find_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1))
        .unwrap_or("unknown");
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    let Pace { rounds, window, .. } = pace;
    Ok(format!(
        "# Benchmarks of {date}\n\n\
         - machine: {cpu}, {cores} cores, Linux {kernel}, load {load} before\n\
         - {rustc}, lapin {lapin}, RabbitMQ {rabbitmq}\n\
         - {rounds} rounds of {window:?} for each number\n",
        date = said_by("date", &["-u", "+%F %R UTC"]),
        cores = std::thread::available_parallelism()?,
        kernel = said_by("uname", &["-r"]),
        rustc = said_by("rustc", &["-V"]),
        lapin = lapin_version(),
    ))
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => format!("({program}: {error})"),
    }
}

fn lapin_version() -> &'static str {
    let locked = include_str!("../../Cargo.lock");
    let entry = locked.split_once("name = \"lapin\"\nversion = \"");
    entry
        .and_then(|(_, rest)| rest.split('"').next())
        .unwrap_or("unknown")
}

/// Returns the path of a results file in Cargo's target folder. Its name has the current time.
pub(crate) fn results_file() -> Outcome<PathBuf> {
    let program = env::current_exe()?; // target/release/deps/round_trip-…
    let target = program
        .ancestors()
        .nth(3)
        .ok_or("the program is not in a target folder")?;
    let folder = target.join("bench");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(format!(
        "round-trip-{}.md",
        said_by("date", &["-u", "+%Y%m%d-%H%M%S"])
    )))
}
