//! WebSocket clients: one message after another, each echoed.

use super::Shared;
use crate::bench::l7::websocket as wire;
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) async fn run(shared: &Shared, to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(to).await.context("connecting")?;
    stream.set_nodelay(true)?;
    stream.write_all(wire::HANDSHAKE.as_bytes()).await?;
    let head = read_head(&mut stream).await?;
    ensure!(head.starts_with("HTTP/1.1 101"), "answered {head:?}");
    let message = wire::from_client();
    let mut expected = wire::from_server();
    wire::copy_payload(&message, &mut expected);
    let mut answer = wire::from_server();
    let mut first = true;
    loop {
        if !first {
            let Some(due) = shared.pace.next().await else {
                return Ok(());
            };
            exchange(&mut stream, &message, &mut answer).await?;
            shared.answered(due);
        } else {
            exchange(&mut stream, &message, &mut answer).await?;
            shared.ready.wait().await;
            first = false;
        }
        ensure!(answer == expected, "not what was sent");
    }
}

async fn exchange(stream: &mut TcpStream, message: &[u8], answer: &mut [u8]) -> Result<()> {
    stream.write_all(message).await?;
    stream.read_exact(answer).await?;
    Ok(())
}

/// Reads octet by octet, so as not to take anything of what follows.
async fn read_head(stream: &mut TcpStream) -> Result<String> {
    const MOST: usize = 4096;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
        ensure!(head.len() < MOST, "an endless head");
    }
    Ok(String::from_utf8(head)?)
}
