//! A server that we did not write: nginx, as Debian has it.

use crate::support::{EVEN, expect_shares};
use anyhow::{Context, Result};
use proxy_tests::client::Shares;
use proxy_tests::netns::Namespace;
use proxy_tests::path::Path;
use proxy_tests::privilege;
use proxy_tests::stage::Stage;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// One nginx in the foreground; killed when dropped.
struct Nginx {
    child: Child,
    _directory: TempDir,
}

impl Nginx {
    fn start(program: &PathBuf, host: &Namespace, name: &str, port: u16) -> Result<Self> {
        let directory = TempDir::new()?;
        let root = directory.path().display();
        let config = format!(
            "daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error;
             user root; events {{ worker_connections 256; }}
             http {{
                 access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
                 fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi;
                 scgi_temp_path {root}/scgi;
                 server {{
                     listen {port}; listen [::]:{port};
                     location / {{ add_header X-Backend {name}; return 200 \"{name}\\n\"; }}
                 }}
             }}\n"
        );
        let file = directory.path().join("nginx.conf");
        fs::write(&file, config)?;
        let child = host
            .command(program)
            .arg("-e")
            .arg(directory.path().join("error"))
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start nginx")?;
        Ok(Self {
            child,
            _directory: directory,
        })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM, so that the worker ends too.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").arg(pid).status();
        let _ = self.child.wait();
    }
}

fn nginx_serves_behind_the_balancer(path: Path) -> Result<()> {
    let Some(program) = privilege::program("nginx", "nginx-light")? else {
        return Ok(());
    };
    let mut stage = Stage::new(path).build()?;
    stage.origins.clear();
    let port = if path.mode.is_nat() { 8080 } else { 80 };
    let mut servers = Vec::new();
    for node in &stage.topology.backends {
        servers.push(Nginx::start(&program, &node.netns, &node.name, port)?);
    }
    for service in stage.config["services"].as_array_mut().context("a list")? {
        service["health"]["port"] = port.into();
    }
    stage.start_decapsulators()?;
    stage.start_daemon()?;
    let mut shares = Shares::new();
    for _ in 0..60 {
        let body = stage.client().get(stage.web(), "/")?.text();
        *shares.entry(body.trim().to_owned()).or_default() += 1;
    }
    expect_shares(&shares, EVEN)
}
on_paths!(nginx_serves_behind_the_balancer:
    nat_v4 = NAT_V4,
    dsr_ipip_v4 = DSR_IPIP_V4,
);
