//! The configuration of a scene: `examples/l4.yaml`, changed as little as the mode asks for.

use anyhow::{Context, Result};
use proxy_common::service::Mode;
use proxy_tests::topology::{SNAT_V4, SNAT_V6, vip_v4, vip_v6};
use serde_json::{Value, json};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Port at the VIP.
pub(crate) const PORT: u16 = 80;

/// The example, read and adapted.
///
/// # Errors
///
/// It cannot be read, or is no longer what this was written for.
pub(crate) fn config(mode: Mode, v6: bool) -> Result<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/l4.yaml");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut config = proxy_userspace::config::yaml_to_json(&text)
        .with_context(|| format!("cannot understand {}", file.display()))?;
    let vip: IpAddr = if v6 {
        vip_v6(0x10).into()
    } else {
        vip_v4(10).into()
    };
    config["listeners"][0]["address"] = json!(vip);
    let service = config["services"][0]
        .as_object_mut()
        .context("no service in the example")?;
    service["mode"] = json!(mode.name());
    match mode {
        Mode::Local => {
            service.remove("backends");
            service.remove("health");
            return Ok(config);
        }
        Mode::FullNat => {
            let source: IpAddr = if v6 { SNAT_V6.into() } else { SNAT_V4.into() };
            service.insert("source_addresses".to_owned(), json!([source]));
        }
        _ => {}
    }
    let backends = service["backends"].as_array_mut().context("backends")?;
    for (index, backend) in backends.iter_mut().enumerate() {
        let given: SocketAddr =
            serde_json::from_value(backend["address"].clone()).context("a backend's address")?;
        // Direct return cannot translate ports, so backends serve at the VIP's.
        let port = if mode.is_nat() { given.port() } else { PORT };
        let ip = if v6 {
            format!("fd02::2{}", index + 1).parse()?
        } else {
            given.ip()
        };
        backend["address"] = json!(SocketAddr::new(ip, port));
    }
    // The drained backend's connections are shown until the end.
    service.insert("drain_timeout".to_owned(), json!("10m"));
    // Quicker than one would in production, so that the demo does not have to wait.
    service["health"]["interval"] = json!("500ms");
    service["health"]["timeout"] = json!("400ms");
    service["health"]["fall"] = json!(2);
    service["health"]["rise"] = json!(1);
    Ok(config)
}
