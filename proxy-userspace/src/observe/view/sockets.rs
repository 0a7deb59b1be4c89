//! Steering, and octets that go past TCP.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the kernel steers to listeners. Counters are those of all processes since the maps were made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SteeringView {
    /// Bindings: an address or prefix with a port or range of ports each.
    pub bindings: u64,
    /// Entries of the kernel's tables, those for what listeners are bound to among them.
    pub entries: u64,
    /// Raised whenever other sockets were put in force.
    pub generation: u32,
    /// Directory of the pins.
    pub pin_dir: String,
    /// New connections and datagrams that no binding was for.
    pub unmatched: u64,
    /// Listeners that have bindings, by name; `(admin)` is what `admin.listen` is bound to.
    pub listeners: Vec<SteeredView>,
}

/// What came to the bindings of a listener: new connections, and datagrams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SteeredView {
    /// The listener.
    pub name: String,
    /// The listener got it.
    pub steered: u64,
    /// Refused, because nobody served the listener.
    pub refused: u64,
    /// Left to the ordinary lookup, because nobody served the listener.
    pub passed: u64,
    /// The kernel did not take the listener's socket; counted as refused or passed as well.
    pub failed: u64,
}

/// Octets that go from socket to socket within this host, past TCP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AccelerationView {
    /// `on` or `off`, for new connections.
    pub state: String,
    /// Why it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same in a word: `privileges`, `kernel`, `self-test`, `stalled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// How long the self-test took.
    pub self_test_seconds: f64,
    /// Sockets that are accelerated now.
    pub sockets: u64,
    /// Connections that were.
    pub connections: u64,
    /// Messages that went past TCP.
    pub messages: u64,
    /// Octets of those.
    pub bytes: u64,
    /// Messages of accelerated connections that went by TCP, since it was not empty, or too much
    /// waited.
    pub by_tcp: u64,
    /// Writes that were held up because too much waited.
    pub held: u64,
    /// Sockets that found no room in the map.
    pub full: u64,
    /// Connections whose other end took nothing of what waited for long.
    pub stalled: u64,
    /// Connections that stayed plain because the client's descriptor blocks.
    #[serde(default)]
    pub blocking: u64,
    /// Tunnels whose octets could go past this process.
    #[serde(default)]
    pub tunnels: u64,
    /// Octets that did.
    #[serde(default)]
    pub direct_bytes: u64,
    /// Messages of such tunnels that went through this process, since others were still on that way.
    #[serde(default)]
    pub detours: u64,
    /// Those because too much waited at the other end.
    #[serde(default)]
    pub crowded: u64,
    /// Listeners with `auto` whose new connections are plain, as much flows through their tunnels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bulk_listeners: Vec<String>,
}
