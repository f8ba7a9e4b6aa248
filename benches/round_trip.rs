//! Measures calls through RabbitMQ by rpc-core and by hand-written clients and servers, and prints tables.
//!
//! ```text
//! cargo bench -p rpc-benches --features broker --bench round_trip -- [--quick] [--rounds <n>] [--window <ms>] [section]…
//! ```
//!
//! `BENCHMARKS.md` describes the sections.

mod driver {
    pub(crate) mod cases;
    pub(crate) mod machine;
    pub(crate) mod run;
    pub(crate) mod streams;
    pub(crate) mod table;
}

use std::fs;
use std::time::Duration;

use driver::cases::{self, Section};
use driver::run::{Pace, Runner};
use driver::{machine, streams, table};
use lexopt::prelude::*;
use rpc_benches::contender::Outcome;

#[tokio::main]
async fn main() -> Outcome {
    let (pace, sections) = options()?;
    let mut runner = Runner::start(pace).await?;
    let mut text = machine::describe(&runner.node, pace)?;
    println!("{text}");
    for section in sections {
        let part = match &section {
            Part::Compare(section) => {
                let results = runner.measure(section).await?;
                table::render(section, &results)
            }
            Part::Memory => runner.memory().await?,
            Part::Streams => streams::measure(&runner.node, pace).await?,
        };
        println!("{part}");
        text += &part;
    }
    let disturbance = runner.disturbance();
    println!("{disturbance}");
    text += &disturbance;
    let path = machine::results_file()?;
    fs::write(&path, text)?;
    println!("Written to {}", path.display());
    Ok(())
}

/// Part of the results.
enum Part {
    Compare(Section),
    Memory,
    Streams,
}

fn options() -> Outcome<(Pace, Vec<Part>)> {
    let mut pace = Pace::THOROUGH;
    let mut names = Vec::new();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("quick") => pace = Pace::QUICK,
            Long("rounds") => pace.rounds = parser.value()?.parse()?,
            Long("window") => pace.window = Duration::from_millis(parser.value()?.parse()?),
            Long("bench") => {} // Cargo passes this flag to every benchmark.
            Value(name) => names.push(name.string()?),
            _ => return Err(argument.unexpected().into()),
        }
    }
    if names.is_empty() {
        names.push(cases::ROUND_TRIP.to_owned());
    }
    let parts = names.iter().map(|name| match name.as_str() {
        "memory" => Ok(Part::Memory),
        "streams" => Ok(Part::Streams),
        name => cases::section(name).map(Part::Compare),
    });
    Ok((pace, parts.collect::<Outcome<_>>()?))
}
