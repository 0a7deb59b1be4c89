//! What is on the screen, and what keys do to it. Pure: no terminal, no clock, no daemon.

use crate::observe::view::{BackendView, ReasonCount, ServiceView, Traffic, View};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::collections::HashMap;

/// Rows that PgUp and PgDn move by.
const PAGE: usize = 10;

/// The state of the display.
#[derive(Clone, Debug)]
pub(super) struct App {
    /// The last view.
    pub(super) view: View,
    /// The one before, for rates.
    before: Option<View>,
    /// Whether to use colours.
    pub(super) color: bool,
    /// How backends of a service are ordered.
    pub(super) order: Order,
    /// Whether that order is reversed.
    pub(super) reversed: bool,
    /// Text that names must contain.
    pub(super) filter: String,
    /// The selected backend, counted over the rows shown.
    pub(super) selected: usize,
    /// What keys mean.
    pub(super) mode: Mode,
    /// The last thing to tell the user.
    pub(super) message: String,
    /// Why there is no newer view, if there is none.
    pub(super) lost: Option<String>,
}

/// What keys mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Commands.
    Normal,
    /// Text of the filter.
    Filter,
    /// An answer to whether this is to be done.
    Confirm(Action),
    /// Any key closes the explanation.
    Help,
}

/// What the user wants done outside the display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Leave.
    Quit,
    /// Drain a backend.
    Drain {
        /// Its service.
        service: String,
        /// Its name.
        backend: String,
    },
    /// End a drain.
    Undrain {
        /// Its service.
        service: String,
        /// Its name.
        backend: String,
    },
}

/// How backends of a service are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// As in the file.
    File,
    /// By name.
    Name,
    /// By new flows per second, most first.
    NewFlows,
    /// By packets per second, most first.
    Packets,
    /// By octets per second, most first.
    Bytes,
    /// By live flows, most first.
    Live,
}

impl Order {
    const fn next(self) -> Self {
        match self {
            Self::File => Self::Name,
            Self::Name => Self::NewFlows,
            Self::NewFlows => Self::Packets,
            Self::Packets => Self::Bytes,
            Self::Bytes => Self::Live,
            Self::Live => Self::File,
        }
    }

    /// The word shown.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Name => "name",
            Self::NewFlows => "new flows",
            Self::Packets => "packets",
            Self::Bytes => "bytes",
            Self::Live => "live flows",
        }
    }
}

/// A line of the table.
#[derive(Clone, Debug)]
pub(super) enum Row<'a> {
    /// A service with its rates.
    Service(&'a ServiceView, Rates),
    /// A backend of a service with its rates.
    Backend(&'a ServiceView, &'a BackendView, Rates),
}

/// Rates per second, and the share of the service's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// New flows and requests.
    pub(super) new_flows: f64,
    /// Packets in both directions.
    pub(super) packets: f64,
    /// Octets in both directions.
    pub(super) bytes: f64,
    /// Live flows and requests in progress, not a rate.
    pub(super) live: u64,
    /// Share of the service's packets (or requests) since the last look, 0..=1; `None` if there were none.
    pub(super) share: Option<f64>,
}

impl App {
    /// A display of a first view, without rates yet.
    pub(super) fn new(view: View, color: bool) -> Self {
        Self {
            view,
            before: None,
            color,
            order: Order::File,
            reversed: false,
            filter: String::new(),
            selected: 0,
            mode: Mode::Normal,
            message: String::new(),
            lost: None,
        }
    }

    /// Takes a newer view.
    pub(super) fn update(&mut self, view: View) {
        self.lost = None;
        self.before = Some(std::mem::replace(&mut self.view, view));
        self.clamp();
    }

    /// The daemon does not answer.
    pub(super) fn lost(&mut self, why: String) {
        self.lost = Some(why);
    }

    /// Shows a sentence until the next one.
    pub(super) fn tell(&mut self, message: String) {
        self.message = message;
    }

    /// The lines of the table: each service, then its backends in the chosen order.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let seconds = self.seconds();
        let earlier = self.earlier();
        let mut rows = Vec::new();
        for service in &self.view.services {
            let mut backends: Vec<(&BackendView, Rates)> = (service.backends.iter())
                .filter(|backend| self.matches(service, backend))
                .map(|backend| {
                    let key = (service.name.as_str(), backend.name.as_str());
                    let now = moved(backend);
                    let since = now.since(earlier_or(&earlier, key, now));
                    (backend, rates(since, live(backend), seconds))
                })
                .collect();
            let matches_itself = contains(&service.name, &self.filter);
            if backends.is_empty() && !matches_itself {
                continue;
            }
            let total = self.service_rates(service, &earlier, seconds);
            for (_, rates) in &mut backends {
                rates.share = rates.share_of(&total);
            }
            self.sort(&mut backends);
            rows.push(Row::Service(service, total));
            rows.extend(
                backends
                    .into_iter()
                    .map(|(backend, rates)| Row::Backend(service, backend, rates)),
            );
        }
        rows
    }

    /// Reasons with their rates, the busiest first.
    pub(super) fn reasons(&self) -> Vec<(&ReasonCount, f64)> {
        let seconds = self.seconds();
        let before = self
            .before
            .as_ref()
            .map(|view| view.reasons.as_slice())
            .unwrap_or_default();
        let earlier: HashMap<&str, u64> = before
            .iter()
            .map(|count| (count.reason.as_str(), count.packets))
            .collect();
        let mut reasons: Vec<(&ReasonCount, f64)> = (self.view.reasons.iter())
            .map(|count| {
                // One that was not listed was not seen; without a view before, nothing is known.
                let or = if self.before.is_some() {
                    0
                } else {
                    count.packets
                };
                let then = earlier.get(count.reason.as_str()).copied().unwrap_or(or);
                (
                    count,
                    per_second(count.packets.saturating_sub(then), seconds),
                )
            })
            .collect();
        reasons.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.packets.cmp(&a.0.packets)));
        reasons
    }

    /// Acts on a key; what is to be done outside is returned.
    pub(super) fn key(&mut self, key: KeyEvent) -> Option<Action> {
        let control_c =
            key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        if control_c {
            return Some(Action::Quit);
        }
        match self.mode.clone() {
            Mode::Normal => self.normal_key(key.code),
            Mode::Filter => {
                self.filter_key(key.code);
                None
            }
            Mode::Help => {
                self.mode = Mode::Normal;
                None
            }
            Mode::Confirm(action) => {
                self.mode = Mode::Normal;
                self.message.clear();
                matches!(key.code, KeyCode::Char('y' | 'Y')).then_some(action)
            }
        }
    }

    fn normal_key(&mut self, code: KeyCode) -> Option<Action> {
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Action::Quit),
            KeyCode::Down | KeyCode::Char('j') => self.selected = self.selected.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::PageDown => self.selected = self.selected.saturating_add(PAGE),
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(PAGE),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = usize::MAX,
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('?') => self.mode = Mode::Help,
            KeyCode::Char('d') => {
                self.confirm(|service, backend| Action::Drain { service, backend })
            }
            KeyCode::Char('u') => {
                self.confirm(|service, backend| Action::Undrain { service, backend });
            }
            _ => {}
        }
        self.clamp();
        None
    }

    fn filter_key(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.mode = Mode::Normal,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Normal;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
        self.clamp();
    }

    /// Asks whether to do something to the selected backend.
    fn confirm(&mut self, action: impl Fn(String, String) -> Action) {
        if let Some((service, backend)) = self.selection() {
            self.mode = Mode::Confirm(action(service, backend));
        }
    }

    /// Names of the selected backend and its service.
    pub(super) fn selection(&self) -> Option<(String, String)> {
        let rows = self.rows();
        let mut backends = rows.iter().filter_map(|row| match row {
            Row::Backend(service, backend, _) => Some((service.name.clone(), backend.name.clone())),
            Row::Service(..) => None,
        });
        backends.nth(self.selected)
    }

    fn clamp(&mut self) {
        let rows = self.rows();
        let backends = rows
            .iter()
            .filter(|row| matches!(row, Row::Backend(..)))
            .count();
        self.selected = self.selected.min(backends.saturating_sub(1));
    }

    fn matches(&self, service: &ServiceView, backend: &BackendView) -> bool {
        contains(&service.name, &self.filter) || contains(&backend.name, &self.filter)
    }

    fn sort(&self, backends: &mut [(&BackendView, Rates)]) {
        let most_first = |key: fn(&Rates) -> f64| {
            move |a: &(&BackendView, Rates), b: &(&BackendView, Rates)| {
                key(&b.1).total_cmp(&key(&a.1))
            }
        };
        match self.order {
            Order::File => {}
            Order::Name => backends.sort_by(|a, b| a.0.name.cmp(&b.0.name)),
            Order::NewFlows => backends.sort_by(most_first(|rates| rates.new_flows)),
            Order::Packets => backends.sort_by(most_first(|rates| rates.packets)),
            Order::Bytes => backends.sort_by(most_first(|rates| rates.bytes)),
            Order::Live => backends.sort_by(most_first(|rates| rates.live as f64)),
        }
        if self.reversed {
            backends.reverse();
        }
    }

    /// Seconds between the last two views; 0 without an earlier one.
    fn seconds(&self) -> f64 {
        let before = self.before.as_ref();
        before.map_or(0.0, |before| {
            self.view.read_at_seconds - before.read_at_seconds
        })
    }

    /// Traffic of backends in the view before.
    fn earlier(&self) -> Earlier<'_> {
        let before = self.before.iter().flat_map(|view| &view.services);
        let backends = before.flat_map(|service| {
            service.backends.iter().map(move |backend| {
                (
                    (service.name.as_str(), backend.name.as_str()),
                    moved(backend),
                )
            })
        });
        backends.collect()
    }

    /// Rates of a whole service, whatever the filter hides.
    fn service_rates(&self, service: &ServiceView, earlier: &Earlier, seconds: f64) -> Rates {
        let own = |service: &ServiceView| {
            ServiceView {
                listeners: service.listeners.clone(),
                ..ServiceView::default()
            }
            .traffic()
        };
        let before = self.before.iter().flat_map(|view| &view.services);
        let own_before = before
            .filter(|known| known.name == service.name)
            .map(own)
            .next();
        let own_now = own(service);
        let mut since = own_now.since(own_before.unwrap_or(own_now));
        let mut alive = 0;
        for backend in &service.backends {
            let key = (service.name.as_str(), backend.name.as_str());
            let now = moved(backend);
            since = since.plus(now.since(earlier_or(earlier, key, now)));
            alive += live(backend);
        }
        rates(since, alive, seconds)
    }
}

impl Rates {
    /// What part this is of a service's: of its packets, or where there are none, of its requests.
    fn share_of(&self, total: &Self) -> Option<f64> {
        let share = |part: f64, all: f64| (all > 0.0).then(|| part / all);
        share(self.packets, total.packets).or_else(|| share(self.new_flows, total.new_flows))
    }
}

/// What a backend has got so far. A request of the proxies counts as a flow.
fn moved(backend: &BackendView) -> Traffic {
    let requests = backend.proxy.as_ref().map_or(0, |proxy| proxy.requests);
    Traffic {
        new_flows: backend.traffic.new_flows + requests,
        ..backend.traffic
    }
}

/// Flows that are not closing, and requests in progress.
fn live(backend: &BackendView) -> u64 {
    backend.live_flows
        + backend
            .proxy
            .as_ref()
            .map_or(0, |proxy| proxy.in_flight.into())
}

type Earlier<'a> = HashMap<(&'a str, &'a str), Traffic>;

/// A backend that was not there before has no rate yet.
fn earlier_or(earlier: &Earlier, key: (&str, &str), now: Traffic) -> Traffic {
    earlier.get(&key).copied().unwrap_or(now)
}

fn rates(since: Traffic, live: u64, seconds: f64) -> Rates {
    Rates {
        new_flows: per_second(since.new_flows, seconds),
        packets: per_second(since.packets + since.return_packets, seconds),
        bytes: per_second(since.bytes + since.return_bytes, seconds),
        live,
        share: None,
    }
}

fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

fn contains(name: &str, filter: &str) -> bool {
    name.to_lowercase().contains(&filter.to_lowercase())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::observe::view::{Daemon, FlowTable, Phase};

    pub(in crate::cli::top) fn view(at: f64, packets: [u64; 3]) -> View {
        let backend = |name: &str, state: &str, packets: u64| BackendView {
            name: name.to_owned(),
            address: "10.0.0.1".to_owned(),
            state: state.to_owned(),
            live_flows: packets / 100,
            traffic: Traffic {
                packets,
                bytes: packets * 1000,
                new_flows: packets / 10,
                ..Traffic::default()
            },
            ..BackendView::default()
        };
        View {
            daemon: Daemon {
                version: "0.1.0".to_owned(),
                phase: Phase::Serving,
                ..Daemon::default()
            },
            services: vec![
                ServiceView {
                    name: "web".to_owned(),
                    mode: "nat".to_owned(),
                    backends: vec![
                        backend("web-1", "up", packets[0]),
                        backend("web-2", "draining", packets[1]),
                    ],
                    ..ServiceView::default()
                },
                ServiceView {
                    name: "dns".to_owned(),
                    mode: "dsr-ipip".to_owned(),
                    backends: vec![backend("ns", "down", packets[2])],
                    ..ServiceView::default()
                },
            ],
            reasons: vec![
                ReasonCount {
                    reason: "translated".to_owned(),
                    outcome: "forward".to_owned(),
                    packets: packets.iter().sum(),
                    ..ReasonCount::default()
                },
                ReasonCount {
                    reason: "denied".to_owned(),
                    outcome: "drop".to_owned(),
                    packets: 1_000_000,
                    ..ReasonCount::default()
                },
            ],
            flow_table: FlowTable {
                capacity: 1000,
                entries: 250,
                expired: 0,
            },
            read_at_seconds: at,
            ..View::default()
        }
    }

    pub(in crate::cli::top) fn app() -> App {
        let mut app = App::new(view(10.0, [1_000, 2_000, 0]), false);
        app.update(view(12.0, [1_600, 2_200, 0]));
        app
    }

    fn press(app: &mut App, code: KeyCode) -> Option<Action> {
        app.key(KeyEvent::from(code))
    }

    fn names(app: &App) -> Vec<String> {
        let rows = app.rows();
        let names = rows.iter().map(|row| match row {
            Row::Service(service, _) => service.name.clone(),
            Row::Backend(_, backend, _) => format!(".{}", backend.name),
        });
        names.collect()
    }

    #[test]
    fn rates_are_per_second_and_shares_of_the_service() {
        let app = app();
        let rows = app.rows();
        let Row::Service(_, web) = &rows[0] else {
            panic!("a service comes first")
        };
        assert_eq!(
            (web.packets, web.new_flows, web.bytes),
            (400.0, 40.0, 400_000.0)
        );
        let Row::Backend(_, _, first) = &rows[1] else {
            panic!("then its backends")
        };
        assert_eq!((first.packets, first.share), (300.0, Some(0.75)));
        let Row::Backend(_, _, idle) = &rows[4] else {
            panic!("the other service's backend")
        };
        assert_eq!(idle.share, None);
    }

    #[test]
    fn the_first_look_has_no_rates() {
        let app = App::new(view(10.0, [1_000, 2_000, 0]), false);
        assert!(app.rows().iter().all(|row| match row {
            Row::Service(_, rates) | Row::Backend(_, _, rates) => rates.packets == 0.0,
        }));
        assert!(app.reasons().iter().all(|(_, rate)| *rate == 0.0));
    }

    #[test]
    fn counters_that_started_anew_show_nothing_rather_than_nonsense() {
        let mut app = app();
        app.update(view(14.0, [5, 5, 5]));
        let Row::Service(_, web) = &app.rows()[0] else {
            panic!("a service comes first")
        };
        assert_eq!(web.packets, 0.0);
    }

    #[test]
    fn reasons_are_ordered_by_what_happens_now() {
        let app = app();
        let reasons = app.reasons();
        assert_eq!(
            (reasons[0].0.reason.as_str(), reasons[0].1),
            ("translated", 400.0)
        );
        assert_eq!(
            (reasons[1].0.reason.as_str(), reasons[1].1),
            ("denied", 0.0)
        );
    }

    #[test]
    fn orders_take_turns_and_can_be_reversed() {
        let mut app = app();
        press(&mut app, KeyCode::Char('r'));
        assert_eq!(names(&app)[..3], ["web", ".web-2", ".web-1"]);
        press(&mut app, KeyCode::Char('r'));
        while app.order != Order::Live {
            press(&mut app, KeyCode::Char('s'));
        }
        assert_eq!(names(&app)[..3], ["web", ".web-2", ".web-1"]);
        press(&mut app, KeyCode::Char('s'));
        assert_eq!(app.order, Order::File);
    }

    #[test]
    fn a_filter_keeps_what_it_names_and_its_service() {
        let mut app = app();
        for code in [
            KeyCode::Char('/'),
            KeyCode::Char('B'),
            KeyCode::Char('-'),
            KeyCode::Char('2'),
        ] {
            assert_eq!(press(&mut app, code), None);
        }
        assert_eq!(names(&app), ["web", ".web-2"]);
        let Row::Backend(_, _, rates) = &app.rows()[1] else {
            panic!("a backend")
        };
        assert_eq!(rates.share, Some(0.25), "of the whole service");
        press(&mut app, KeyCode::Enter);
        assert_eq!(press(&mut app, KeyCode::Char('q')), Some(Action::Quit));
        press(&mut app, KeyCode::Char('/'));
        press(&mut app, KeyCode::Esc);
        assert_eq!(names(&app).len(), 5);
    }

    #[test]
    fn nothing_is_drained_without_a_yes() {
        let mut app = app();
        press(&mut app, KeyCode::Down);
        let drain = Action::Drain {
            service: "web".to_owned(),
            backend: "web-2".to_owned(),
        };
        assert_eq!(press(&mut app, KeyCode::Char('d')), None);
        assert_eq!(app.mode, Mode::Confirm(drain.clone()));
        assert_eq!(press(&mut app, KeyCode::Char('n')), None);
        assert_eq!(app.mode, Mode::Normal);
        press(&mut app, KeyCode::Char('d'));
        assert_eq!(press(&mut app, KeyCode::Char('y')), Some(drain));
        press(&mut app, KeyCode::Char('u'));
        assert!(matches!(
            press(&mut app, KeyCode::Char('y')),
            Some(Action::Undrain { .. })
        ));
    }

    #[test]
    fn the_selection_stays_on_a_backend() {
        let mut app = app();
        press(&mut app, KeyCode::End);
        assert_eq!(app.selection(), Some(("dns".to_owned(), "ns".to_owned())));
        let mut fewer = view(13.0, [0, 0, 0]);
        fewer.services.pop();
        app.update(fewer);
        assert_eq!(
            app.selection(),
            Some(("web".to_owned(), "web-2".to_owned()))
        );
        app.update(View::default());
        assert_eq!(app.selection(), None);
        assert_eq!(press(&mut app, KeyCode::Char('d')), None);
        assert_eq!(app.mode, Mode::Normal, "there is nothing to drain");
    }

    #[test]
    fn control_c_leaves_from_everywhere() {
        let mut app = app();
        press(&mut app, KeyCode::Char('/'));
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(app.key(control_c), Some(Action::Quit));
    }
}
