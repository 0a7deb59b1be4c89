//! `sluice top`.
//!
//! ```text
//! daemon ──view──▶ model.rs (pure: rates, order, filter, keys) ──▶ draw.rs (pure) ──▶ terminal
//!    ▲                 │
//!    └──drain, undrain─┘ after a confirmation
//! ```

mod draw;
mod model;

use crate::admin::api::{BackendAnswer, BackendName, DrainRequest};
use crate::admin::client::Client;
use crate::cli::args::{self, SocketArgs};
use crate::cli::exit::{Exit, Failure};
use crate::observe::log::color;
use crate::observe::view::View;
use model::{Action, App};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Shortest time between looks: each costs the daemon a walk over its maps.
const SHORTEST: Duration = Duration::from_millis(100);

/// Watch services and backends live
///
/// Rates are per second over the time since the last look. The selected backend can be drained and
/// undrained; both ask before they act.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice top
  sluice top --interval 500ms

Keys:
  q, Esc         quit                  s, r   next order, reverse it
  ↑ ↓ PgUp PgDn  select                /      filter by name (Enter keeps it, Esc clears it)
  d, u           drain, undrain        ?      explain the columns")]
pub(super) struct Args {
    /// Time between looks, 100ms or more
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    #[command(flatten)]
    socket: SocketArgs,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = args::duration(text)?;
    if interval < SHORTEST {
        return Err("must be 100ms or more".to_owned());
    }
    Ok(interval)
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        if !io::stdout().is_terminal() {
            let error = "standard output is not a terminal";
            return Err(Failure::new(Exit::Usage, error).hint("Use `sluice status` in a pipe."));
        }
        let failed = |error| Failure::new(Exit::Failed, error);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let client = self.socket.client();
        // Before the screen is taken over, so that a failure is an ordinary message.
        let view = runtime.block_on(client.get::<View>("status"))?;
        let mut app = App::new(view, color(true));
        let mut terminal = ratatui::try_init().map_err(failed)?;
        let watched = watch(&mut terminal, &mut app, &runtime, &client, self.interval);
        ratatui::restore();
        watched.map(|()| Exit::Done).map_err(failed)
    }
}

/// Looks, draws and listens until the user leaves.
fn watch(
    terminal: &mut DefaultTerminal,
    app: &mut App,
    runtime: &Runtime,
    client: &Client,
    interval: Duration,
) -> io::Result<()> {
    let mut due = Instant::now() + interval;
    loop {
        terminal.draw(|frame| draw::draw(frame, app))?;
        let wait = due.saturating_duration_since(Instant::now());
        if event::poll(wait)? {
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => match app.key(key) {
                    None => continue,
                    Some(Action::Quit) => return Ok(()),
                    Some(action) => {
                        let told = runtime.block_on(act(client, action));
                        app.tell(told.unwrap_or_else(|failure| failure));
                        due = Instant::now();
                    }
                },
                // The size may have changed: draw again.
                _ => continue,
            }
        }
        if Instant::now() >= due {
            match runtime.block_on(client.get::<View>("status")) {
                Ok(view) => app.update(view),
                Err(error) => app.lost(crate::admin::api::chain(&error)),
            }
            due = Instant::now() + interval;
        }
    }
}

/// Does what was confirmed; both outcomes are sentences for the user.
async fn act(client: &Client, action: Action) -> Result<String, String> {
    let answered = match action {
        Action::Quit => return Ok(String::new()),
        Action::Drain { service, backend } => {
            let request = DrainRequest {
                service,
                backend,
                timeout_seconds: None,
            };
            client.post::<BackendAnswer>("drain", &request).await
        }
        Action::Undrain { service, backend } => {
            client
                .post("undrain", &BackendName { service, backend })
                .await
        }
    };
    match answered {
        Ok(answer) => Ok(format!(
            "{}/{} is {}",
            answer.service, answer.backend, answer.state
        )),
        Err(error) => Err(crate::admin::api::chain(&error)),
    }
}
