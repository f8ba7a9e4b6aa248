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

/// Duration and number of measurements.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) rounds: usize,
    /// Attempts to get an undisturbed measurement.
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

/// Share of steal time above which a measurement counts as disturbed.
const DISTURBED: f64 = 0.02;

/// Node and processes of a measurement.
pub(crate) struct Runner {
    pub(crate) node: Node,
    broker_pid: u32,
    pace: Pace,
    /// Steal time of each report.
    stolen: Vec<f64>,
}

/// Running servers on a queue of their own.
struct Running {
    queue: String,
    programs: Vec<Program>,
}

impl Runner {
    pub(crate) async fn start(pace: Pace) -> Outcome<Self> {
        let node = Node::start().await;
        // Busy-waiting Erlang threads let a test's node start faster, but would take CPU time from the contenders here. RabbitMQ's own
        // default is no busy waiting.
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

    /// Measures each case once per round. Cases take turns, so changes over time affect all cases alike.
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

    /// Describes the steal time of the reports so far.
    pub(crate) fn disturbance(&self) -> String {
        let mut stolen: Vec<f64> = self.stolen.iter().map(|share| 100.0 * share).collect();
        stolen.sort_by(f64::total_cmp);
        match (stolen.get(stolen.len() / 2), stolen.last()) {
            (Some(median), Some(most)) => {
                format!("\nSteal time of a run: {median:.1} % (median), {most:.1} % at most.\n")
            }
            _ => String::new(),
        }
    }

    /// Describes the memory of a waiting call.
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

    /// Returns the least disturbed report of several. Steal time affects processes that wait for each other more than processes that
    /// compute.
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

    /// Returns a report and its share of steal time.
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
