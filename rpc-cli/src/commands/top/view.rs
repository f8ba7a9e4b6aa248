//! The screen.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table, TableState, Wrap};

use super::state::{KEYS, Page, SortBy, State};
use super::survey::{Numbers, Service};
use crate::output::visible;
use crate::units;

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);
const TROUBLE: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

/// Draws the state. Parts that have no room are left out.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State) {
    // The title tells a lost connection, so it stays longest.
    let hints = u16::from(frame.area().height > 2);
    let rows = [1, frame.area().height.saturating_sub(1 + hints), hints];
    let [title, body, hints] = Layout::vertical(rows.map(Constraint::Length)).areas(frame.area());
    frame.render_widget(title_of(state), title);
    match state.page {
        Page::Services => draw_services(frame, state, body),
        Page::Detail => draw_detail(frame, state, body),
        Page::Help => frame.render_widget(Paragraph::new(KEYS).wrap(Wrap { trim: false }), body),
    }
    frame.render_widget(hints_of(state), hints);
}

fn title_of(state: &State) -> Line<'static> {
    let services = state.all();
    let instances: usize = services.iter().map(|service| service.instances.len()).sum();
    let mut line = Line::from(vec![
        Span::styled("rpc top", BOLD),
        Span::raw(format!(
            "  services: {}, instances: {instances}",
            services.len()
        )),
    ]);
    if state.is_paused {
        line.push_span(Span::styled("  PAUSED", BOLD));
    }
    match state.current_trouble() {
        Some(trouble) => line.push_span(Span::styled(format!("  {}", visible(trouble)), TROUBLE)),
        None if state.is_first() => line.push_span("  asking…"),
        None => {}
    }
    line
}

fn hints_of(state: &State) -> Line<'static> {
    if state.is_typing {
        return Line::styled(
            format!("/{}_  Enter: keep  Esc: remove", visible(&state.filter)),
            BOLD,
        );
    }
    let hints = match state.page {
        Page::Services => "q quit  ? help  / filter  Enter detail  Space pause  sort: n c e p d f",
        Page::Detail | Page::Help => "Esc back  q quit",
    };
    match state.filter.is_empty() {
        true => Line::raw(hints),
        false => Line::raw(format!("filter: {}  {hints}", visible(&state.filter))),
    }
}

fn draw_services(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let services = state.services();
    if services.is_empty() && !state.is_first() {
        let text = match state.filter.is_empty() {
            true => "no server answers",
            false => "no service passes the filter",
        };
        frame.render_widget(text, area);
        return;
    }
    let columns = [
        ("SERVICE", SortBy::Name, Constraint::Fill(2)),
        ("CALLS/S", SortBy::Calls, Constraint::Length(9)),
        ("ERRORS/S", SortBy::Errors, Constraint::Length(10)),
        ("P99", SortBy::P99, Constraint::Length(8)),
        ("DEPTH", SortBy::Depth, Constraint::Length(7)),
        ("IN FLIGHT", SortBy::InFlight, Constraint::Length(11)),
    ];
    let mark = |sort| match (state.sort == sort, state.is_reversed) {
        (false, _) => "",
        (true, false) => "*",
        (true, true) => "*r",
    };
    let titles = columns.map(|(title, sort, _)| format!("{title}{}", mark(sort)));
    let widths = columns.map(|(.., width)| width);
    // The columns without an order come after the name.
    let [name, rest @ ..] = titles;
    let titles = [name, "VERSION".to_owned(), "INSTANCES".to_owned()]
        .into_iter()
        .chain(rest);
    let [name, rest @ ..] = widths;
    let widths = [name, Constraint::Fill(1), Constraint::Length(9)]
        .into_iter()
        .chain(rest);
    let rows = services.iter().map(|service| service_row(service));
    let table = Table::new(rows, widths)
        .header(Row::new(titles).style(BOLD))
        .row_highlight_style(REVERSED);
    let mut selection = TableState::new().with_selected(state.selection());
    frame.render_stateful_widget(table, area, &mut selection);
}

fn service_row(service: &Service) -> Row<'static> {
    let Numbers {
        rates,
        in_flight,
        streams,
        p99,
        ..
    } = &service.numbers;
    let has_errors = rates.is_some_and(|rates| rates.errors > 0.0);
    Row::new([
        visible(&service.name),
        visible(&service.versions),
        service.instances.len().to_string(),
        units::rate(rates.map(|rates| rates.calls)),
        units::rate(rates.map(|rates| rates.errors)),
        units::duration(*p99),
        units::known(service.depth),
        (in_flight.saturating_add(*streams)).to_string(),
    ])
    .style(match has_errors {
        true => Style::new().fg(Color::Red),
        false => Style::new(),
    })
}

fn draw_detail(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let name = visible(state.selected_name().unwrap_or_default());
    let Some(service) = state.selected() else {
        frame.render_widget(format!("{name}: no instance answers"), area);
        return;
    };
    let rows = [
        Constraint::Length(2),
        Constraint::Fill(1),
        Constraint::Fill(1),
    ];
    let [title, methods, instances] = Layout::vertical(rows).areas(area);
    let versions = visible(&service.versions);
    frame.render_widget(
        Line::styled(format!("{name}, version {versions}"), BOLD),
        title,
    );

    let rows = service.methods.iter().map(|(name, numbers)| {
        let cells = [
            visible(name),
            numbers.calls.to_string(),
            numbers.errors.to_string(),
        ];
        Row::new(cells.into_iter().chain(number_cells(numbers)))
    });
    let titles = ["METHOD", "CALLS", "ERRORS"].into_iter().chain(NUMBERS);
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(10),
        Constraint::Length(10),
    ];
    draw_table(frame, methods, titles, widths, rows);

    let rows = service.instances.iter().map(|instance| {
        let cells = [
            visible(&units::short_id(&instance.id)),
            visible(&instance.name),
            visible(&instance.version),
            units::age(instance.uptime),
        ];
        Row::new(cells.into_iter().chain(number_cells(&instance.numbers)))
    });
    let titles = ["INSTANCE", "NAME", "VERSION", "UPTIME"]
        .into_iter()
        .chain(NUMBERS);
    let widths = [
        Constraint::Length(8),
        Constraint::Fill(1),
        Constraint::Length(10),
        Constraint::Length(13),
    ];
    draw_table(frame, instances, titles, widths, rows);
}

/// Titles of [`number_cells`].
const NUMBERS: [&str; 5] = ["CALLS/S", "ERRORS/S", "P99", "IN FLIGHT", "STREAMS"];

fn number_cells(numbers: &Numbers) -> [String; 5] {
    [
        units::rate(numbers.rates.map(|rates| rates.calls)),
        units::rate(numbers.rates.map(|rates| rates.errors)),
        units::duration(numbers.p99),
        numbers.in_flight.to_string(),
        numbers.streams.to_string(),
    ]
}

/// Draws a table whose last columns are [`NUMBERS`].
fn draw_table<const N: usize>(
    frame: &mut Frame<'_>,
    area: Rect,
    titles: impl Iterator<Item = &'static str>,
    widths: [Constraint; N],
    rows: impl Iterator<Item = Row<'static>>,
) {
    let widths = widths
        .into_iter()
        .chain([8, 8, 8, 9, 7].map(Constraint::Length));
    let table = Table::new(rows, widths).header(Row::new(titles).style(BOLD));
    frame.render_widget(table, area);
}

#[cfg(test)]
mod tests {
    use crossterm::event::{Event, KeyCode};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::survey::sample;
    use super::*;

    fn screen(state: &State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state)).unwrap();
        terminal.backend().to_string()
    }

    fn state() -> State {
        let mut state = State::new(String::new());
        state.update(sample(&[("Fib", 12.34, 5), ("Shop\u{1b}[2J", 0.0, 0)]));
        state
    }

    #[test]
    fn services_have_a_line_each() {
        let screen = screen(&state(), 100, 8);
        let words: Vec<Vec<_>> = screen
            .lines()
            .map(|line| line.trim_matches('"').split_whitespace().collect())
            .collect();
        assert_eq!(words[0].join(" "), "rpc top services: 2, instances: 2");
        assert_eq!(
            words[1].join(" "),
            "SERVICE* VERSION INSTANCES CALLS/S ERRORS/S P99 DEPTH IN FLIGHT"
        );
        assert_eq!(words[2].join(" "), "Fib 1.0 1 12.3 0.50 12.0 ms 5 2");
        assert_eq!(words[3][0], "Shop\\u{1b}[2J");
        assert!(words[7].join(" ").starts_with("q quit"));
    }

    #[test]
    fn the_state_is_told() {
        let mut state = State::new("x".to_owned());
        assert!(screen(&state, 80, 5).contains("asking…"));
        state.update(sample(&[("Fib", 1.0, 0)]));
        assert!(screen(&state, 80, 5).contains("no service passes the filter"));
        state.trouble("the connection is down");
        assert!(screen(&state, 80, 5).contains("the connection is down"));
        state.is_paused = true;
        assert!(screen(&state, 80, 5).contains("PAUSED"));
        state.handle(&Event::Key(KeyCode::Esc.into()));
        state.handle(&Event::Key(KeyCode::Enter.into()));
        let detail = screen(&state, 120, 12);
        for text in [
            "Fib, version 1.0",
            "METHOD",
            "run",
            "Fib-inst",
            "worker",
            "1 min 0 s",
        ] {
            assert!(detail.contains(text), "{text}:\n{detail}");
        }
    }

    #[test]
    fn every_size_of_a_terminal_is_drawn() {
        let mut state = state();
        for page in [Page::Services, Page::Detail, Page::Help] {
            state.handle(&Event::Key(KeyCode::Enter.into()));
            state.page = page;
            for (width, height) in [
                (1, 1),
                (1, 50),
                (300, 1),
                (2, 2),
                (10, 3),
                (20, 5),
                (300, 100),
            ] {
                screen(&state, width, height);
            }
        }
    }
}
