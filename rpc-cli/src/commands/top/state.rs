//! The choices of the user: order, filter, selection, and the part that is shown.

use std::cmp::Ordering;

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::survey::{Service, Survey};

/// Text of the help.
pub(super) const KEYS: &str = "\
Keys:
  up, down, j, k    select a service
  Enter             shows the methods and instances of the service
  Esc               goes back, or removes the filter
  n c e p d f       sort by name, calls/s, errors/s, p99, depth, in flight; again: reverses the order
  /                 filters services by a part of their names
  Space             pauses, and goes on
  ?                 shows this help
  q                 quits

CALLS/S and ERRORS/S are the rates since the look before; ERRORS are the service's own errors and faults. P99 is the highest of all \
methods and instances since their start. DEPTH is the number of messages that wait in the queues of the service.";

/// Next step after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Draw,
    Quit,
    Interrupt,
}

/// Order of the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SortBy {
    Name,
    Calls,
    Errors,
    P99,
    Depth,
    InFlight,
}

impl SortBy {
    fn of_key(key: char) -> Option<Self> {
        Some(match key {
            'n' => Self::Name,
            'c' => Self::Calls,
            'e' => Self::Errors,
            'p' => Self::P99,
            'd' => Self::Depth,
            'f' => Self::InFlight,
            _ => return None,
        })
    }

    /// Compares: names from A to Z, numbers from the highest.
    fn compare(self, a: &Service, b: &Service) -> Ordering {
        let rates = |service: &Service| service.numbers.rates.unwrap_or_default();
        match self {
            Self::Name => a.name.cmp(&b.name),
            Self::Calls => rates(b).calls.total_cmp(&rates(a).calls),
            Self::Errors => rates(b).errors.total_cmp(&rates(a).errors),
            Self::P99 => b.numbers.p99.cmp(&a.numbers.p99),
            Self::Depth => b.depth.cmp(&a.depth),
            Self::InFlight => b.numbers.in_flight.cmp(&a.numbers.in_flight),
        }
    }
}

/// The part that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Services,
    /// Methods and instances of the selected service.
    Detail,
    Help,
}

#[derive(Debug)]
pub(super) struct State {
    /// `None` before the first look.
    survey: Option<Survey>,
    /// Cause of the last look's failure.
    trouble: Option<String>,
    pub(super) page: Page,
    pub(super) sort: SortBy,
    pub(super) is_reversed: bool,
    pub(super) filter: String,
    /// The user types the filter.
    pub(super) is_typing: bool,
    pub(super) is_paused: bool,
    /// Name of the selected service. The selection follows the service when the order changes.
    selected: Option<String>,
}

impl State {
    pub(super) fn new(filter: String) -> Self {
        Self {
            survey: None,
            trouble: None,
            page: Page::Services,
            sort: SortBy::Name,
            is_reversed: false,
            filter,
            is_typing: false,
            is_paused: false,
            selected: None,
        }
    }

    /// Takes the result of a look. A paused user sees the one before.
    pub(super) fn update(&mut self, survey: Survey) {
        self.trouble = None;
        if !self.is_paused {
            self.survey = Some(survey);
        }
    }

    /// Takes the failure of a look.
    pub(super) fn trouble(&mut self, message: &str) {
        self.trouble = Some(message.to_owned());
    }

    /// The failure of the last look.
    pub(super) fn current_trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Returns `true` before the first look.
    pub(super) fn is_first(&self) -> bool {
        self.survey.is_none()
    }

    /// All services, those that the filter hides included.
    pub(super) fn all(&self) -> &[Service] {
        self.survey.as_ref().map_or(&[], |survey| &survey.services)
    }

    /// The services that pass the filter, in the chosen order.
    pub(super) fn services(&self) -> Vec<&Service> {
        let filter = self.filter.to_lowercase();
        let passes = |service: &&Service| service.name.to_lowercase().contains(&filter);
        let mut services: Vec<_> = self.all().iter().filter(passes).collect();
        // A stable sort: equal services stay in the order of their names.
        services.sort_by(|a, b| match self.is_reversed {
            true => self.sort.compare(b, a),
            false => self.sort.compare(a, b),
        });
        services
    }

    /// Place of the selected service among [`services`](Self::services). The first one is selected if the selected one is gone.
    pub(super) fn selection(&self) -> Option<usize> {
        let services = self.services();
        let place = services
            .iter()
            .position(|it| Some(&it.name) == self.selected.as_ref());
        place.or((!services.is_empty()).then_some(0))
    }

    /// The selected service. A detail page stays with its service while the service is gone.
    pub(super) fn selected(&self) -> Option<&Service> {
        let selected = self.selected.as_ref()?;
        self.all().iter().find(|service| service.name == *selected)
    }

    pub(super) fn selected_name(&self) -> Option<&str> {
        self.selected.as_deref()
    }

    pub(super) fn handle(&mut self, event: &Event) -> Next {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.key(*key),
            // A terminal that was resized is drawn again.
            _ => Next::Draw,
        }
    }

    fn key(&mut self, key: KeyEvent) -> Next {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Next::Interrupt,
                _ => Next::Draw,
            };
        }
        match self.is_typing {
            true => self.type_filter(key.code),
            false => return self.command(key.code),
        }
        Next::Draw
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Char(c) => self.filter.push(c),
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            _ => {}
        }
    }

    fn command(&mut self, key: KeyCode) -> Next {
        match key {
            KeyCode::Char('q') => return Next::Quit,
            KeyCode::Char('?') => {
                self.page = match self.page {
                    Page::Help => Page::Services,
                    _ => Page::Help,
                }
            }
            KeyCode::Char(' ') => self.is_paused = !self.is_paused,
            KeyCode::Esc => self.go_back(),
            _ if self.page == Page::Services => self.choose(key),
            _ => {}
        }
        Next::Draw
    }

    fn go_back(&mut self) {
        match self.page {
            Page::Services => self.filter.clear(),
            Page::Detail | Page::Help => self.page = Page::Services,
        }
    }

    /// Follows a key of the list of services.
    fn choose(&mut self, key: KeyCode) {
        const PAGE: isize = 10;
        match key {
            KeyCode::Up | KeyCode::Char('k') => self.select(-1),
            KeyCode::Down | KeyCode::Char('j') => self.select(1),
            KeyCode::PageUp => self.select(-PAGE),
            KeyCode::PageDown => self.select(PAGE),
            KeyCode::Home => self.select(isize::MIN),
            KeyCode::End => self.select(isize::MAX),
            KeyCode::Enter => {
                self.select(0);
                if self.selected.is_some() {
                    self.page = Page::Detail;
                }
            }
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char(key) => {
                if let Some(sort) = SortBy::of_key(key) {
                    self.is_reversed = self.sort == sort && !self.is_reversed;
                    self.sort = sort;
                }
            }
            _ => {}
        }
    }

    /// Moves the selection by a number of lines.
    fn select(&mut self, by: isize) {
        let services = self.services();
        let place = self.selection().unwrap_or(0).saturating_add_signed(by);
        let place = place.min(services.len().saturating_sub(1));
        self.selected = services.get(place).map(|service| service.name.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::super::survey::sample;
    use super::*;

    fn state() -> State {
        let mut state = State::new(String::new());
        state.update(sample(&[
            ("Alpha", 1.0, 9),
            ("Beta", 3.0, 9),
            ("Gamma", 2.0, 10),
        ]));
        state
    }

    fn press(state: &mut State, keys: &str) -> Next {
        let mut next = Next::Draw;
        for key in keys.chars() {
            let code = match key {
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                '\x08' => KeyCode::Backspace,
                key => KeyCode::Char(key),
            };
            next = state.handle(&Event::Key(code.into()));
        }
        next
    }

    fn names(state: &State) -> String {
        let names: Vec<_> = state.services().iter().map(|it| it.name.clone()).collect();
        names.join(" ")
    }

    #[test]
    fn keys_sort_and_sort_again_in_reverse() {
        let mut state = state();
        for (keys, expected) in [
            ("", "Alpha Beta Gamma"),
            ("n", "Gamma Beta Alpha"),
            ("c", "Beta Gamma Alpha"),
            ("c", "Alpha Gamma Beta"),
            ("d", "Gamma Alpha Beta"),
            ("e", "Alpha Beta Gamma"),
            ("p", "Alpha Beta Gamma"),
            ("f", "Alpha Beta Gamma"),
            ("n", "Alpha Beta Gamma"),
        ] {
            press(&mut state, keys);
            assert_eq!(names(&state), expected, "after {keys}");
        }
    }

    #[test]
    fn a_filter_hides_services_until_it_is_removed() {
        let mut state = state();
        press(&mut state, "/mmx\x08");
        assert!(state.is_typing);
        assert_eq!(names(&state), "Gamma");
        press(&mut state, "\nq/");
        assert_eq!(
            press(&mut state, "q"),
            Next::Draw,
            "letters belong to the filter"
        );
        assert_eq!(names(&state), "");
        assert_eq!(state.selection(), None);
        press(&mut state, "\x1b");
        assert_eq!(names(&state), "Alpha Beta Gamma");
    }

    #[test]
    fn the_selection_follows_its_service() {
        let mut state = state();
        assert_eq!(state.selection(), Some(0));
        press(&mut state, "j");
        assert_eq!(state.selected().unwrap().name, "Beta");
        press(&mut state, "n");
        assert_eq!(state.selection(), Some(1));
        press(&mut state, "c");
        assert_eq!(state.selection(), Some(0));
        press(&mut state, "kkkjjjjj");
        assert_eq!(state.selection(), Some(2));
        state.handle(&Event::Key(KeyCode::Home.into()));
        assert_eq!(state.selection(), Some(0));
        state.handle(&Event::Key(KeyCode::End.into()));
        assert_eq!(state.selection(), Some(2));
    }

    #[test]
    fn pages_are_entered_and_left() {
        let mut state = state();
        press(&mut state, "\n");
        assert_eq!(
            (state.page, state.selected_name()),
            (Page::Detail, Some("Alpha"))
        );
        // The service ends.
        state.update(sample(&[("Beta", 1.0, 1)]));
        assert!(state.selected().is_none());
        press(&mut state, "\x1b?");
        assert_eq!(state.page, Page::Help);
        press(&mut state, "c");
        assert_eq!(state.sort, SortBy::Name, "help has no order");
        press(&mut state, "?");
        assert_eq!(state.page, Page::Services);
        let mut empty = State::new(String::new());
        press(&mut empty, "jk\n");
        assert_eq!(empty.page, Page::Services);
        assert_eq!(press(&mut empty, "q"), Next::Quit);
    }

    #[test]
    fn a_pause_keeps_the_numbers_and_tells_troubles() {
        let mut state = state();
        press(&mut state, " ");
        state.update(sample(&[]));
        assert_eq!(names(&state), "Alpha Beta Gamma");
        state.trouble("lost");
        assert_eq!(state.current_trouble(), Some("lost"));
        press(&mut state, " ");
        state.update(sample(&[]));
        assert_eq!(
            (names(&state).as_str(), state.current_trouble()),
            ("", None)
        );
    }

    #[test]
    fn ctrl_c_interrupts_from_every_page() {
        let mut state = state();
        let ctrl_c = Event::Key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
        for keys in ["", "?", "\x1b\n", "\x1b/"] {
            press(&mut state, keys);
            assert_eq!(state.handle(&ctrl_c), Next::Interrupt, "after {keys:?}");
        }
    }
}
