//! What is measured: the sections, and in each of them the cases that are compared.

use rpc_benches::contender::Outcome;

/// Cases that are measured side by side.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) cases: Vec<Case>,
    pub(crate) layout: Layout,
}

/// How a section's table looks.
pub(crate) enum Layout {
    /// A row for each contender, a column for each number of calls in flight, and ratios between contenders.
    Wide {
        ratios: &'static [(&'static str, &'static str)],
    },
    /// A row for each case; the last column is the rate as a ratio to that of the case's baseline.
    Long,
}

/// A contender under a load.
#[derive(Clone)]
pub(crate) struct Case {
    /// What the row is called.
    pub(crate) row: String,
    pub(crate) servers: Servers,
    /// The client's contender, which may differ from the server's.
    pub(crate) client: String,
    pub(crate) in_flight: usize,
    pub(crate) payload: usize,
    pub(crate) clients: usize,
    /// The row that it is compared with.
    pub(crate) baseline: Option<String>,
}

/// What is there to be called.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Servers {
    /// Their contender; `None` when the client needs none.
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

/// rpc-core with nothing that can be switched off.
const BARE: &str = "ours-mandatory-expiration";

/// The section that is measured unless another is asked for, and the number of calls in flight at which its table shows the
/// CPU time.
pub(crate) const ROUND_TRIP: &str = "round-trip";
pub(crate) const CPU_AT: usize = 64;

/// The section of that name.
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

/// Enough for a call on each of a hundred clients.
const GROWTH_IN_FLIGHT: usize = 128;

fn clients() -> Vec<Case> {
    let case = |clients| Case {
        clients,
        ..Case::new("ours", GROWTH_IN_FLIGHT).named(format!("{clients} clients"))
    };
    [1, 10, 100].map(case).into()
}

/// Each number of them beside as many hand-written ones: processes that compete for the cores cost anybody something.
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

/// Each guarantee on its own: taken from, or added to, the defaults. rpc-core's own where it has a switch, and in any case the
/// fastest lapin with the same traffic, where nothing else hides the difference.
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
        "+header",
        "+confirms",
        "+persistent",
    ] {
        cases.push(Case::new(&format!("ours{change}"), CPU_AT).against("ours"));
    }
    Section {
        title: "What guarantees cost, 64 calls in flight",
        cases,
        layout: Layout::Long,
    }
}

/// Nothing shares a message, replies do, requests do too; beside the fastest that sends a message for each call.
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
