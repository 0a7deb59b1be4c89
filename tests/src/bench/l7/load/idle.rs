//! Connections that are open and do nothing.

use super::Target;
use super::h1::Client;
use anyhow::{Context, Result};

/// Opens this many connections, each of which is used once.
pub(super) async fn open(
    to: &Target,
    request: &[u8],
    length: usize,
    count: usize,
) -> Result<Vec<Client>> {
    let mut held = Vec::with_capacity(count);
    for index in 0..count {
        let mut client = Client::open(to).await?;
        client
            .ask(request, length)
            .await
            .with_context(|| format!("connection {index} of {count}"))?;
        held.push(client);
    }
    Ok(held)
}

/// Uses each of them again.
pub(super) async fn ask(held: &mut [Client], request: &[u8], length: usize) -> Result<()> {
    for (index, client) in held.iter_mut().enumerate() {
        client
            .ask(request, length)
            .await
            .with_context(|| format!("connection {index} after it was idle"))?;
    }
    Ok(())
}
