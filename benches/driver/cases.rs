//! Sections of the benchmark, and the cases that each section compares.

use rpc_benches::contender::Outcome;

/// Cases that are measured side by side.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) cases: Vec<Case>,
    pub(crate) layout: Layout,
}

/// Layout of a section's table.
pub(crate) enum Layout {
    /// A row for each contender, a column for each number of calls in flight, and ratios between contenders.
    Wide {
        ratios: &'static [(&'static str, &'static str)],
    },
    /// A row for each case. The last column is the ratio of its rate to its baseline's.
    Long,
}

/// Contender under a load.
#[derive(Clone)]
pub(crate) struct Case {
    /// Name of the row.
    pub(crate) row: String,
    pub(crate) servers: Servers,
    /// The client's contender, which may differ from the server's.
    pub(crate) client: String,
    pub(crate) in_flight: usize,
    pub(crate) payload: usize,
    pub(crate) clients: usize,
    /// Baseline: name of the row that this one is compared with.
    pub(crate) baseline: Option<String>,
}

/// Servers of a case.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Servers {
    /// Contender of the servers. `None` if the client needs no server.
    pub(crate) spec: Option<String>,
    pub(crate) processes: usize,
    pub(crate) services: usize,
}

impl Case {
    fn new(spec: &str, in_flight: usize) -> Self {
        Self {
            row: spec.to_owned(),
            servers: Servers {
                spec: Some(spec.to_owned()),
                processes: 1,
                services: 1,
            },
            client: spec.to_owned(),
            in_flight,
            payload: 10,
            clients: 1,
            baseline: None,
        }
    }

    fn named(mut self, row: impl Into<String>) -> Self {
        self.row = row.into();
        self
    }

    fn against(mut self, baseline: impl Into<String>) -> Self {
        self.baseline = Some(baseline.into());
        self
    }

    fn payload(mut self, bytes: usize) -> Self {
        self.payload = bytes;
        self
    }
}

/// rpc-core without optional features.
const BARE: &str = "ours-mandatory-expiration";

/// Section that is measured by default.
pub(crate) const ROUND_TRIP: &str = "round-trip";
/// Number of calls in flight at which tables show the CPU time.
pub(crate) const CPU_AT: usize = 64;

/// Returns the section with this name.
pub(crate) fn section(name: &str) -> Outcome<Section> {
    Ok(match name {
        ROUND_TRIP => round_trip(),
        "payloads" => payloads(),
        "tasks" => growth("Tasks on a client", tasks()),
        "clients" => growth("Clients in a process, 128 calls in flight", clients()),
        "servers" => servers(),
        "services" => growth("Services in a server, 128 calls in flight", services()),
        "guarantees" => guarantees(),
        "coalescing" => coalescing(),
        "in-process" => in_process(),
        _ => return Err(format!("there is no section '{name}'").into()),
    })
}

fn round_trip() -> Section {
    const CONTENDERS: [&str; 9] = [
        "ours",
        "ours@single",
        "ours-batches",
        BARE,
        "ours-mandatory-expiration@single",
        "tutorial",
        "engineer",
        "same",
        "fastest",
    ];
    let levels = [1, 16, CPU_AT, 256, 1024];
    let cases = levels
        .iter()
        .flat_map(|&level| CONTENDERS.map(|spec| Case::new(spec, level)));
    Section {
        title: "Calls of 10 bytes",
        cases: cases.collect(),
        layout: Layout::Wide {
            ratios: &[
                ("ours", "same"),
                ("ours@single", "same"),
                ("ours-batches", "same"),
                (BARE, "fastest"),
                ("ours-mandatory-expiration@single", "fastest"),
            ],
        },
    }
}

fn payloads() -> Section {
    const SIZES: [(usize, &str); 4] = [
        (10, "10 B"),
        (1 << 10, "1 KiB"),
        (64 << 10, "64 KiB"),
        (1 << 20, "1 MiB"),
    ];
    let mut cases = Vec::new();
    for (bytes, size) in SIZES {
        let case = |spec: &str| {
            Case::new(spec, 16)
                .payload(bytes)
                .named(format!("{spec}, {size}"))
        };
        cases.push(case("same"));
        cases.push(case("ours").against(format!("same, {size}")));
        cases.push(case("fastest"));
        cases.push(case(BARE).against(format!("fastest, {size}")));
    }
    Section {
        title: "Payloads, 16 calls in flight",
        cases,
        layout: Layout::Long,
    }
}

fn growth(title: &'static str, mut cases: Vec<Case>) -> Section {
    let first = cases[0].row.clone();
    for case in &mut cases[1..] {
        case.baseline = Some(first.clone());
    }
    Section {
        title,
        cases,
        layout: Layout::Long,
    }
}

fn tasks() -> Vec<Case> {
    let case = |tasks| Case::new("ours", tasks).named(format!("{tasks} tasks"));
    [1, 10, 100, 1000].map(case).into()
}

/// Calls in flight in the growth sections: enough for a call on each of a hundred clients.
const GROWTH_IN_FLIGHT: usize = 128;

fn clients() -> Vec<Case> {
    let case = |clients| Case {
        clients,
        ..Case::new("ours", GROWTH_IN_FLIGHT).named(format!("{clients} clients"))
    };
    [1, 10, 100].map(case).into()
}

/// Each number of servers, compared with the same number of hand-written servers, because processes compete for the cores.
fn servers() -> Section {
    let case = |spec: &str, processes| {
        let mut case =
            Case::new(spec, GROWTH_IN_FLIGHT).named(format!("{spec}, {processes} servers"));
        case.servers.processes = processes;
        case
    };
    let mut cases = Vec::new();
    for processes in [1, 2, 4, 8, 16] {
        cases.push(case("same", processes));
        cases.push(case("ours", processes).against(format!("same, {processes} servers")));
    }
    Section {
        title: "Servers on a queue, 128 calls in flight",
        cases,
        layout: Layout::Long,
    }
}

fn services() -> Vec<Case> {
    let case = |services| {
        let mut case = Case::new("ours", GROWTH_IN_FLIGHT).named(format!("{services} services"));
        case.servers.services = services;
        case
    };
    [1, 5, 50].map(case).into()
}

/// Each guarantee on its own, removed from or added to the defaults: in rpc-core if an option exists, and in the fastest lapin with the
/// same traffic, which shows the difference most clearly.
fn guarantees() -> Section {
    const CHANGES: [&str; 10] = [
        "-mandatory",
        "-expiration",
        "-deadline",
        "-metadata",
        "-acks",
        "-mandatory-expiration-deadline-metadata-acks",
        "+header",
        "+confirms",
        "+persistent",
        "+quorum",
    ];
    let mut cases = vec![Case::new("same", CPU_AT), Case::new("ours", CPU_AT)];
    for change in CHANGES {
        cases.push(Case::new(&format!("same{change}"), CPU_AT).against("same"));
    }
    for change in [
        "-mandatory-expiration",
        "-introspection",
        "+header",
        "+confirms",
        "+persistent",
    ] {
        cases.push(Case::new(&format!("ours{change}"), CPU_AT).against("ours"));
    }
    Section {
        title: "The cost of guarantees, 64 calls in flight",
        cases,
        layout: Layout::Long,
    }
}

/// No calls share messages, replies do, and requests do too, compared with the fastest lapin with one message per call.
fn coalescing() -> Section {
    let mut cases = Vec::new();
    for level in [1, 16, CPU_AT, 256, 1024] {
        let row = |spec: &str| format!("{spec}, {level} in flight");
        let case = |spec: &str| Case::new(spec, level).named(row(spec));
        cases.push(case("fastest"));
        for spec in [
            "ours-batches",
            "ours",
            "ours+coalesce",
            "ours+coalesce@single",
        ] {
            cases.push(case(spec).against(row("fastest")));
        }
    }
    Section {
        title: "Coalescing",
        cases,
        layout: Layout::Long,
    }
}

fn in_process() -> Section {
    let alone = |spec, in_flight, row| {
        let mut case = Case::new(spec, in_flight).named(row);
        case.servers.spec = None;
        case
    };
    Section {
        title: "Without RabbitMQ, on one thread",
        cases: vec![
            alone("embedded", 1, "embedded broker, 1 call in flight"),
            alone("embedded", 64, "embedded broker, 64 calls in flight"),
            alone("direct", 1, "direct dispatch"),
        ],
        layout: Layout::Long,
    }
}
