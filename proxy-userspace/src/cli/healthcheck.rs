//! `sluice healthcheck`.

use crate::admin::client::{Client, ClientError};
use crate::cli::args::{self, SocketArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use std::time::Duration;

/// Say whether the daemon is ready, for whoever looks after its container
///
/// Ends with 0 if it is, and with 1 if it is not, cannot be reached, or does not answer in time.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice healthcheck
  HEALTHCHECK CMD sluice healthcheck --timeout 3s    in a container file

GET /readyz?verbose of the admin API shows every check.")]
pub(super) struct Args {
    /// How long the answer may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = args::duration)]
    timeout: Duration,
    #[command(flatten)]
    socket: SocketArgs,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        args::block_on(async {
            ask(&self.socket.client(), self.timeout)
                .await
                .map_err(|why| Failure::new(Exit::Failed, why))?;
            output::line("ready")?;
            Ok(Exit::Done)
        })
    }
}

/// Whether it is ready, and if not, why.
async fn ask(client: &Client, timeout: Duration) -> Result<(), String> {
    match tokio::time::timeout(timeout, client.text("/readyz")).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(ClientError::Refused(refusal))) => Err(refusal.message),
        Ok(Err(error)) => Err(crate::admin::api::chain(&error)),
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// What is said of a daemon that answers with this, or with nothing.
    async fn said(answer: &'static str, timeout: Duration) -> Result<(), String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let listener = UnixListener::bind(&path).expect("binds");
        let serving = tokio::spawn(async move {
            let (mut asked, _) = listener.accept().await.expect("a client");
            let mut request = [0; 1024];
            let read = asked.read(&mut request).await.expect("a request");
            assert!(request[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            asked.write_all(answer.as_bytes()).await.expect("sends");
            // Until the client leaves.
            let _ = asked.read(&mut request).await;
        });
        let said = ask(&Client::new(path), timeout).await;
        serving.await.expect("served");
        said
    }

    #[tokio::test]
    async fn only_an_answer_of_200_in_time_is_health() {
        let ready = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nready\n";
        assert_eq!(said(ready, PATIENCE).await, Ok(()));
        let waiting = "HTTP/1.1 503 Unavailable\r\nContent-Length: 19\r\n\r\n[-] serving: drains";
        let why = said(waiting, PATIENCE).await.expect_err("not ready");
        assert!(why.contains("serving: drains"), "{why}");
        let why = said("", Duration::from_millis(50)).await;
        assert!(why.expect_err("silent").contains("no answer within 50ms"));
        let nobody = Client::new("/nonexistent/admin.sock");
        let why = ask(&nobody, PATIENCE).await.expect_err("nobody");
        assert!(why.contains("/nonexistent/admin.sock"), "{why}");
    }
}
