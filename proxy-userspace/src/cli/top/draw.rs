//! Draws the display. Pure: the same state gives the same cells.

use super::model::{Action, App, Mode, Rates, Row as AppRow};
use crate::cli::format;
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Table, TableState};

/// Lines of the reasons panel at most, with its title.
const REASON_LINES: u16 = 9;

/// What the columns and keys mean.
const HELP: &str = "\
NEW/S    flows and HTTP requests that the backend got, per second
PKT/S    packets to and from it (back only in nat and full-nat)
BYTE/S   their octets, before encapsulation
LIVE     flows that are not closing, and HTTP requests in progress
SHARE    its part of the service's packets since the last look; of
         its requests where it has no packets

↑ ↓ PgUp PgDn Home End  select a backend
d  drain it: keeps its flows, takes no new ones
u  undrain it
s  order by file, name, new flows, packets, bytes, live flows
r  reverse the order
/  show only services and backends with this in their name
q  leave";

/// Draws everything.
pub(super) fn draw(frame: &mut Frame, app: &App) {
    let reasons = app.reasons();
    let reason_lines = (reasons.len() as u16 + 1).min(REASON_LINES);
    let [head, table, panel, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(3),
        Constraint::Length(reason_lines),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(head_lines(app)), head);
    draw_table(frame, app, table);
    draw_reasons(frame, app, &reasons, panel);
    frame.render_widget(Paragraph::new(foot_line(app)), foot);
    match &app.mode {
        Mode::Confirm(action) => draw_box(frame, " Sure? ", &question(action)),
        Mode::Help => draw_box(frame, " Help: any key closes it ", HELP),
        Mode::Normal | Mode::Filter => {}
    }
}

fn head_lines(app: &App) -> Vec<Line<'static>> {
    let view = &app.view;
    let flows = &view.flow_table;
    let share = 100.0 * flows.entries as f64 / flows.capacity.max(1) as f64;
    let age = view.read_at_seconds - view.daemon.started_at_seconds;
    let interfaces: Vec<String> = view
        .interfaces
        .iter()
        .map(|one| format!("{} ({})", one.name, one.attached))
        .collect();
    let first = format!(
        "sluice {}  {}  up {}  generation {}  {}",
        view.daemon.version,
        view.daemon.phase.name(),
        format::span(age),
        view.config.generation,
        interfaces.join(", "),
    );
    let filter = match app.filter.as_str() {
        "" => String::new(),
        text => format!("  filter: {text}"),
    };
    let second = format!(
        "flow table {} of {} ({share:.1} %)  order: {}{}{filter}",
        format::count(flows.entries as f64),
        format::count(flows.capacity as f64),
        app.order.name(),
        if app.reversed { ", reversed" } else { "" },
    );
    vec![Line::from(Span::styled(first, bold())), Line::from(second)]
}

fn draw_table(frame: &mut Frame, app: &App, area: Rect) {
    let rows = app.rows();
    let mut backend = 0;
    let mut selected = None;
    let lines: Vec<Row> = rows
        .iter()
        .enumerate()
        .map(|(line, row)| match row {
            AppRow::Service(service, rates) => {
                let name = Cell::from(service.name.clone());
                let by_proxies = service.proxy.is_some() && service.listeners.is_empty();
                let mode = if by_proxies {
                    "http"
                } else {
                    service.mode.as_str()
                };
                let cells = [name, Cell::from(mode.to_owned())];
                Row::new(cells.into_iter().chain(numbers(rates))).style(bold())
            }
            AppRow::Backend(_, one, rates) => {
                if backend == app.selected {
                    selected = Some(line);
                }
                backend += 1;
                let left = one
                    .drain_remaining_seconds
                    .map(format::span)
                    .unwrap_or_default();
                let state = format!("{} {left}", one.state);
                let state = Cell::from(state).style(state_style(app, &one.state));
                let cells = [Cell::from(format!("  {}", one.name)), state];
                Row::new(cells.into_iter().chain(numbers(rates)))
            }
        })
        .collect();
    let widths = [
        Constraint::Fill(2),
        Constraint::Length(14),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Length(7),
    ];
    let titles = ["NEW/S", "PKT/S", "BYTE/S", "LIVE", "SHARE"].map(|title| right(title.to_owned()));
    let header = [Cell::from("SERVICE"), Cell::from("STATE")]
        .into_iter()
        .chain(titles);
    let table = Table::new(lines, widths)
        .header(Row::new(header).style(Style::new().add_modifier(Modifier::UNDERLINED)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(selected));
}

fn numbers(rates: &Rates) -> impl Iterator<Item = Cell<'static>> {
    let share = rates
        .share
        .map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", 100.0 * share));
    let texts = [
        format::count(rates.new_flows),
        format::count(rates.packets),
        format::bytes(rates.bytes),
        format::count(rates.live as f64),
        share,
    ];
    texts.into_iter().map(right)
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).alignment(Alignment::Right))
}

fn draw_reasons(
    frame: &mut Frame,
    app: &App,
    reasons: &[(&crate::observe::view::ReasonCount, f64)],
    area: Rect,
) {
    let rows = reasons.iter().map(|(count, rate)| {
        let style = if count.outcome == "drop" && *rate > 0.0 {
            colored(app, Color::Red)
        } else {
            Style::new()
        };
        Row::new([
            Cell::from(count.reason.clone()),
            Cell::from(count.outcome.clone()),
            right(format!("{}/s", format::count(*rate))),
            right(format::count(count.packets as f64)),
            Cell::from(count.text.clone()),
        ])
        .style(style)
    });
    let widths = [
        Constraint::Length(20),
        Constraint::Length(8),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Fill(1),
    ];
    let block = Block::new()
        .borders(Borders::TOP)
        .title(" packets by reason ");
    frame.render_widget(Table::new(rows, widths).block(block), area);
}

fn foot_line(app: &App) -> Line<'static> {
    if let Some(lost) = &app.lost {
        return Line::from(Span::styled(lost.clone(), colored(app, Color::Red)));
    }
    if app.mode == Mode::Filter {
        return Line::from(format!("/{}▏ Enter keeps, Esc clears", app.filter));
    }
    if !app.message.is_empty() {
        return Line::from(app.message.clone());
    }
    Line::from("q quit  ↑↓ select  d drain  u undrain  s order  r reverse  / filter  ? help")
}

fn question(action: &Action) -> String {
    match action {
        Action::Quit => "Leave?".to_owned(),
        Action::Drain { service, backend } => {
            format!("Take no new flows to {backend} of {service}?\n\ny: yes   any other key: no")
        }
        Action::Undrain { service, backend } => {
            format!("Take new flows to {backend} of {service} again?\n\ny: yes   any other key: no")
        }
    }
}

/// A box in the middle of the screen.
fn draw_box(frame: &mut Frame, title: &str, text: &str) {
    let area = frame.area();
    let longest = text
        .lines()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0);
    let width = (longest.max(title.len()) as u16 + 4).min(area.width);
    let height = (text.lines().count() as u16 + 2).min(area.height);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    let block = Block::bordered().title(title.to_owned());
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(text.to_owned()).block(block), place);
}

fn state_style(app: &App, state: &str) -> Style {
    match state {
        "up" => colored(app, Color::Green),
        "draining" => colored(app, Color::Yellow),
        _ => colored(app, Color::Red),
    }
}

fn colored(app: &App, color: Color) -> Style {
    if app.color {
        Style::new().fg(color)
    } else {
        Style::new()
    }
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::app;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent};

    /// The screen as text, without spaces at line ends.
    fn screen(app: &App, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| draw(frame, app)).expect("draws");
        let buffer = terminal.backend().buffer().clone();
        let line = |y| {
            let cells = (0..width).map(|x| buffer[(x, y)].symbol());
            cells.collect::<String>().trim_end().to_owned() + "\n"
        };
        (0..height).map(line).collect()
    }

    #[test]
    fn services_backends_rates_and_reasons_are_on_the_screen() {
        assert_eq!(
            screen(&app(), 88, 14),
            "\
sluice 0.1.0  serving  up 12s  generation 0
flow table 250 of 1.00k (25.0 %)  order: file
SERVICE                  STATE              NEW/S     PKT/S     BYTE/S      LIVE   SHARE
web                      nat                   40       400  390.6 KiB        38       -
  web-1                  up                    30       300  293.0 KiB        16   75.0%
  web-2                  draining              10       100   97.7 KiB        22   25.0%
dns                      dsr-ipip               0         0        0 B         0       -
  ns                     down                   0         0        0 B         0       -


 packets by reason ─────────────────────────────────────────────────────────────────────
translated           forward       400/s     3.80k
denied               drop            0/s     1.00M
q quit  ↑↓ select  d drain  u undrain  s order  r reverse  / filter  ? help
"
        );
    }

    #[test]
    fn a_question_covers_the_middle() {
        let mut app = app();
        app.key(KeyEvent::from(KeyCode::Char('d')));
        let screen = screen(&app, 80, 20);
        assert!(
            screen.contains("Take no new flows to web-1 of web?"),
            "{screen}"
        );
    }

    #[test]
    fn a_lost_daemon_is_told_at_the_bottom() {
        let mut app = app();
        app.lost("cannot reach the daemon at /run/x".to_owned());
        assert!(screen(&app, 80, 20).ends_with("cannot reach the daemon at /run/x\n"));
    }

    #[test]
    fn any_size_is_survived() {
        let mut app = app();
        for mode in [Mode::Normal, Mode::Help, Mode::Filter] {
            app.mode = mode;
            for (width, height) in [(1, 1), (2, 30), (300, 2), (20, 5), (300, 100)] {
                screen(&app, width, height);
            }
        }
    }

    #[test]
    fn without_colour_no_cell_has_one() {
        let mut terminal = Terminal::new(TestBackend::new(80, 20)).expect("a terminal");
        terminal.draw(|frame| draw(frame, &app())).expect("draws");
        let buffer = terminal.backend().buffer();
        assert!(buffer.content.iter().all(|cell| cell.fg == Color::Reset));
        let mut colored = app();
        colored.color = true;
        terminal.draw(|frame| draw(frame, &colored)).expect("draws");
        let buffer = terminal.backend().buffer();
        assert!(buffer.content.iter().any(|cell| cell.fg == Color::Green));
    }
}
