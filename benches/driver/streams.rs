//! The section about streams: many items, the first item, open streams.

use rpc_benches::contender::Outcome;
use rpc_benches::streaming::Report;
use rpc_tests::broker::Node;
use rpc_tests::program::Program;
use rpc_tests::unique_queue;
use serde_json::Value;
use tokio::process::Command;

use super::run::Pace;
use super::table::aligned;

/// Items of one measurement, and their lengths with names.
const ITEMS: u64 = 1_000_000;
const QUICK_ITEMS: u64 = 100_000;
const SIZES: [(&str, u64); 2] = [("10 B", 10), ("1 KiB", 1 << 10)];
const CONTENDERS: [&str; 3] = ["ours", "by-hand", "grpc"];

/// Measures all parts, and returns the text.
pub(crate) async fn measure(node: &Node, pace: Pace) -> Outcome<String> {
    let mut text = String::from("\n## Streams\n\n");
    text += &rates(node, pace).await?;
    let queue = unique_queue("bench");
    let _server = server("ours", node, &queue).await;
    let mut ratios = Vec::new();
    for _ in 0..pace.rounds {
        let times: Value = run(&["first", &node.url(), &queue, "1000"]).await?;
        ratios.push((number(&times["item"]), number(&times["call"])));
    }
    ratios.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
    let (item, call) = ratios[ratios.len() / 2];
    text += &format!(
        "\nThe first item of a stream comes after {item:.0} µs, the reply of a call after {call:.0} µs: {:.2} times as long (median of {}).\n",
        item / call,
        ratios.len()
    );
    let queue = unique_queue("bench");
    let idle: Value = run(&["idle", &node.url(), &queue, "1000", "3"]).await?;
    text += &format!(
        "\nAn open stream takes {} bytes, both sides together. Single calls take {:.0} µs (p50) and {:.0} µs (p99) beside 1,000 open streams, {:.0} µs and {:.0} µs without them.\n",
        idle["bytes"],
        number(&idle["beside"]["p50"]),
        number(&idle["beside"]["p99"]),
        number(&idle["alone"]["p50"]),
        number(&idle["alone"]["p99"]),
    );
    Ok(text)
}

/// Measures the contenders in turns.
async fn rates(node: &Node, pace: Pace) -> Outcome<String> {
    let items = match pace.rounds <= Pace::QUICK.rounds {
        true => QUICK_ITEMS,
        false => ITEMS,
    };
    let queues = CONTENDERS.map(|_| unique_queue("bench"));
    let mut servers = Vec::new();
    for (contender, queue) in CONTENDERS.iter().zip(&queues) {
        servers.push(server(contender, node, queue).await);
    }
    let mut rates = vec![Vec::new(); CONTENDERS.len() * SIZES.len()];
    for round in 1..=pace.rounds {
        eprintln!("Streams: round {round} of {}", pace.rounds);
        for (size, (_, len)) in SIZES.iter().enumerate() {
            for (index, contender) in CONTENDERS.iter().enumerate() {
                let url = servers[index].1.clone().unwrap_or_else(|| node.url());
                let (items, len) = (items.to_string(), len.to_string());
                let report: Report =
                    run(&["client", contender, &url, &queues[index], &items, &len]).await?;
                rates[size * CONTENDERS.len() + index].push(report.rate);
            }
        }
    }
    let mut rows = vec![row([
        "items",
        "ours",
        "by hand",
        "gRPC",
        "ours / by hand",
        "ours / gRPC",
    ])];
    for ((name, _), rates) in SIZES.iter().zip(rates.chunks_mut(CONTENDERS.len())) {
        let medians: Vec<f64> = rates
            .iter_mut()
            .map(|rates| {
                rates.sort_by(f64::total_cmp);
                rates[rates.len() / 2]
            })
            .collect();
        rows.push(row([
            format!("{items} of {name}, per second"),
            format!("{:.0}", medians[0]),
            format!("{:.0}", medians[1]),
            format!("{:.0}", medians[2]),
            format!("{:.2}", medians[0] / medians[1]),
            format!("{:.2}", medians[0] / medians[2]),
        ]));
    }
    Ok(aligned(&rows))
}

fn row<T: ToString, const N: usize>(cells: [T; N]) -> Vec<String> {
    cells.iter().map(ToString::to_string).collect()
}

/// Starts a server. Returns its address if it has one of its own.
async fn server(contender: &str, node: &Node, queue: &str) -> (Program, Option<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streaming"));
    command.args(["server", contender, &node.url(), queue]);
    let mut program = Program::start(command);
    let ready = program.line("ready").await;
    let address = ready.strip_prefix("ready ").map(str::to_owned);
    (program, address)
}

async fn run<T: serde::de::DeserializeOwned>(arguments: &[&str]) -> Outcome<T> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streaming"));
    command.args(arguments);
    let (status, printed) = Program::start(command).end().await;
    let last = printed.last().filter(|_| status.success());
    let last = last.ok_or_else(|| format!("{} failed: {}", arguments[0], printed.join("\n")))?;
    Ok(serde_json::from_str(last)?)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}
