//! Starts the node, the servers and the clients, and collects the clients' reports.

use std::time::Duration;

use rpc_benches::contender::Outcome;
use rpc_benches::load::Report;
use rpc_tests::broker::Node;
use rpc_tests::program::Program;
use rpc_tests::unique_queue;
use tokio::process::Command;

use super::cases::{Case, Section, Servers};
use super::machine;

/// How much time is taken.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) rounds: usize,
    /// How often it is tried to measure something undisturbed.
    pub(crate) attempts: usize,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
}

impl Pace {
    pub(crate) const THOROUGH: Self = Self {
        rounds: 7,
        attempts: 3,
        warm_up: Duration::from_millis(500),
        window: Duration::from_secs(2),
    };
    pub(crate) const QUICK: Self = Self {
        rounds: 2,
        attempts: 1,
        warm_up: Duration::from_millis(200),
        window: Duration::from_millis(600),
    };
}

/// The share of the machine's time from which on it counts as disturbed.
const DISTURBED: f64 = 0.02;

/// What it takes to measure.
pub(crate) struct Runner {
    pub(crate) node: Node,
    broker_pid: u32,
    pace: Pace,
    /// What a virtual machine's host took from each report.
    stolen: Vec<f64>,
}

/// Servers that run, on a queue of their own.
struct Running {
    queue: String,
    programs: Vec<Program>,
}

impl Runner {
    pub(crate) async fn start(pace: Pace) -> Outcome<Self> {
        let node = Node::start().await;
        // A test's node starts faster with Erlang's threads waiting busily, which here would take the CPU from the
        // contenders. RabbitMQ's own setting is the other one.
        let idle = r#"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="${RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS%+sbwt medium*}""#;
        std::fs::write(node.folder().join("rabbitmq-env.conf"), idle)?;
        node.restart().await;
        Ok(Self {
            broker_pid: machine::broker_pid(&node)?,
            node,
            pace,
            stolen: Vec::new(),
        })
    }

    /// The reports of each case, one a round. Cases take turns, so that what changes with time changes them all alike.
    pub(crate) async fn measure(&mut self, section: &Section) -> Outcome<Vec<Vec<Report>>> {
        let mut reports = vec![Vec::new(); section.cases.len()];
        for round in 1..=self.pace.rounds {
            eprintln!("{}: round {round} of {}", section.title, self.pace.rounds);
            let mut running: Vec<(Servers, Running)> = Vec::new();
            for (case, reports) in section.cases.iter().zip(&mut reports) {
                let known = running
                    .iter()
                    .position(|(servers, _)| *servers == case.servers);
                let index = match known {
                    Some(index) => index,
                    None => {
                        running.push((case.servers.clone(), self.serve(&case.servers).await));
                        running.len() - 1
                    }
                };
                reports.push(self.call(case, &running[index].1).await?);
            }
            for (_, Running { programs, .. }) in running {
                for mut program in programs {
                    program.kill().await;
                }
            }
        }
        Ok(reports)
    }

    /// How undisturbed the reports are so far, in words.
    pub(crate) fn disturbance(&self) -> String {
        let mut stolen: Vec<f64> = self.stolen.iter().map(|share| 100.0 * share).collect();
        stolen.sort_by(f64::total_cmp);
        match (stolen.get(stolen.len() / 2), stolen.last()) {
            (Some(median), Some(most)) => format!(
                "\nThe host of this machine gave {median:.1} % of its time to others during a run (median), {most:.1} % at most.\n"
            ),
            _ => String::new(),
        }
    }

    /// What a waiting call costs, in words.
    pub(crate) async fn memory(&self) -> Outcome<String> {
        let mut program = Command::new(env!("CARGO_BIN_EXE_waiting"));
        program.arg(self.node.url());
        let (status, printed) = Program::start(program).end().await;
        let printed = printed.join("\n");
        if !status.success() {
            return Err(format!("waiting failed: {printed}").into());
        }
        Ok(format!("\n## Memory\n\n{printed}\n"))
    }

    async fn serve(&self, servers: &Servers) -> Running {
        let queue = unique_queue("bench");
        let mut programs = Vec::new();
        for spec in servers
            .spec
            .iter()
            .flat_map(|spec| std::iter::repeat_n(spec, servers.processes))
        {
            let mut server = contender("server", spec);
            server.args(["--url", &self.node.url(), "--queue", &queue]);
            server.args(["--services", &servers.services.to_string()]);
            let mut server = Program::start(server);
            server.line("ready").await;
            programs.push(server);
        }
        Running { queue, programs }
    }

    /// The least disturbed report of several: a virtual machine's host may give its time to others, which those who wait for each
    /// other feel more than those who compute.
    async fn call(&mut self, case: &Case, running: &Running) -> Outcome<Report> {
        let (mut stolen, mut report) = self.call_once(case, running).await?;
        for _ in 1..self.pace.attempts {
            if stolen < DISTURBED {
                break;
            }
            let (stolen_now, report_now) = self.call_once(case, running).await?;
            if stolen_now < stolen {
                (stolen, report) = (stolen_now, report_now);
            }
        }
        self.stolen.push(stolen);
        Ok(report)
    }

    /// A report, and the share of the machine's time that its host gave to others meanwhile.
    async fn call_once(&self, case: &Case, running: &Running) -> Outcome<(f64, Report)> {
        let mut client = contender("client", &case.client);
        client.args(["--url", &self.node.url(), "--queue", &running.queue]);
        for (option, value) in [
            ("--in-flight", case.in_flight),
            ("--payload", case.payload),
            ("--clients", case.clients),
            ("--services", case.servers.services),
            ("--warm-up", self.pace.warm_up.as_millis() as usize),
            ("--window", self.pace.window.as_millis() as usize),
        ] {
            client.args([option, &value.to_string()]);
        }
        for pid in running.programs.iter().filter_map(Program::pid) {
            client.args(["--server-pid", &pid.to_string()]);
        }
        if case.servers.spec.is_some() {
            client.args(["--broker-pid", &self.broker_pid.to_string()]);
        }
        let before = machine::times()?;
        let (status, printed) = Program::start(client).end().await;
        let stolen = machine::times()?.stolen_since(&before);
        let report = printed.last().filter(|_| status.success());
        let report =
            report.ok_or_else(|| format!("{} failed: {}", case.row, printed.join("\n")))?;
        Ok((stolen, serde_json::from_str(report)?))
    }
}

fn contender(side: &str, spec: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contender"));
    command.args([side, spec]);
    command
}
