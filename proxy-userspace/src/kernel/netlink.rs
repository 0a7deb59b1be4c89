//! A small synchronous rtnetlink client: interfaces and the XDP programs on them, routes,
//! neighbours.
//!
//! The kernel answers these requests inside the send call, in some ten microseconds, so an
//! asynchronous client would only add a task and a second error path. Messages are built and
//! parsed by `netlink-packet-route`. Refusals carry the kernel's own sentence (extended
//! acknowledgement), which is what a user needs when a driver refuses an XDP program.

use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    NlasIterator,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::net::IpAddr;

/// Attribute of an acknowledgement that holds the kernel's sentence (`NLMSGERR_ATTR_MSG`).
const ACK_MESSAGE: u16 = 1;
/// Octets of a netlink header, which an acknowledgement repeats before its attributes.
const HEADER_OCTETS: usize = 16;

/// A request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket failed.
    #[error("netlink: cannot {call}")]
    Socket {
        /// What was tried.
        call: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("the kernel refused{}", message.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Refused {
        /// The kernel's sentence, if it gave one.
        message: Option<String>,
        /// The error code.
        #[source]
        source: io::Error,
    },
    /// An answer could not be understood.
    #[error("netlink: malformed answer")]
    Malformed,
}

impl NetlinkError {
    /// The error number, if the kernel refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Socket { source, .. } | Self::Refused { source, .. } => source.raw_os_error(),
            Self::Malformed => None,
        }
    }
}

fn socket_error(call: &'static str) -> impl FnOnce(io::Error) -> NetlinkError {
    move |source| NetlinkError::Socket { call, source }
}

/// How an XDP program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
    /// In the hardware, or several at once.
    Other,
}

impl XdpMode {
    /// The name shown to users.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Other => "other",
        }
    }
}

/// The XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedXdp {
    /// How.
    pub mode: XdpMode,
    /// Its id.
    pub program_id: u32,
}

/// An interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceInfo {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MTU in octets of IP packet.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Kind of virtual device (`veth`, `vlan`, …); `None` for hardware.
    pub kind: Option<String>,
    /// Index of the device it is on top of, or of its veth peer.
    pub lower: Option<u32>,
    /// The peer is in another network namespace, so that `lower` is an index there.
    pub peer_elsewhere: bool,
    /// The XDP program on it.
    pub xdp: Option<AttachedXdp>,
}

/// Where packets to an address go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Interface.
    pub ifindex: u32,
    /// Next hop: the gateway, or the address itself.
    pub next_hop: IpAddr,
    /// Source address that this host would use.
    pub source: Option<IpAddr>,
    /// The address is this host's own.
    pub local: bool,
}

/// An open socket; requests are answered one by one.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in this thread's network namespace.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(socket_error("open a socket"))?;
        socket.bind_auto().map_err(socket_error("bind"))?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(socket_error("connect"))?;
        // Both only improve error messages; old kernels lack them.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends a request and collects the answers up to the acknowledgement or end of dump.
    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut octets = vec![0; request.buffer_len()];
        request.serialize(&mut octets);
        self.socket
            .send(&octets, 0)
            .map_err(socket_error("send a request"))?;
        let mut answers = Vec::new();
        loop {
            let (octets, _) = self
                .socket
                .recv_from_full()
                .map_err(socket_error("receive an answer"))?;
            if self.collect(&octets, &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Adds the messages of one datagram; true when the answer is complete.
    fn collect(
        &self,
        mut octets: &[u8],
        answers: &mut Vec<RouteNetlinkMessage>,
    ) -> Result<bool, NetlinkError> {
        while octets.len() >= HEADER_OCTETS {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(octets)
                .map_err(|_| NetlinkError::Malformed)?;
            let length = (message.header.length as usize).next_multiple_of(4);
            octets = octets.get(length..).unwrap_or_default();
            if message.header.sequence_number != self.sequence {
                continue;
            }
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) => match error.code {
                    None => return Ok(true),
                    Some(code) => {
                        return Err(NetlinkError::Refused {
                            message: sentence(&error.header),
                            source: io::Error::from_raw_os_error(-code.get()),
                        });
                    }
                },
                _ => {}
            }
        }
        Ok(false)
    }

    /// All interfaces.
    ///
    /// # Errors
    ///
    /// [`NetlinkError`] if the kernel refuses or the answer is malformed.
    pub fn interfaces(&mut self) -> Result<Vec<InterfaceInfo>, NetlinkError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.request(request, NLM_F_DUMP)?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(interface_of(&link)),
                _ => None,
            })
            .collect())
    }

    /// The interface with this name.
    ///
    /// # Errors
    ///
    /// As [`Self::interfaces`].
    pub fn interface(&mut self, name: &str) -> Result<Option<InterfaceInfo>, NetlinkError> {
        let interfaces = self.interfaces()?;
        Ok(interfaces.into_iter().find(|found| found.name == name))
    }

    /// Tries to attach an XDP program without a link, only to learn why the kernel refuses it:
    /// links swallow that sentence. Should it succeed, the program is taken off again.
    pub(crate) fn why_refused(&mut self, ifindex: u32, program: i32, mode: u32) -> Option<String> {
        /// `XDP_FLAGS_UPDATE_IF_NOEXIST`.
        const IF_NOEXIST: u32 = 1;
        match self.set_xdp(ifindex, program, mode | IF_NOEXIST) {
            Ok(()) => {
                let _ = self.set_xdp(ifindex, -1, mode);
                None
            }
            Err(NetlinkError::Refused { message, .. }) => message,
            Err(_) => None,
        }
    }

    /// Sets (or, with -1, removes) an interface's XDP program without a link.
    fn set_xdp(&mut self, ifindex: u32, program: i32, flags: u32) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.index = ifindex;
        link.attributes.push(LinkAttribute::Xdp(vec![
            LinkXdp::Fd(program),
            LinkXdp::Flags(flags),
        ]));
        self.request(RouteNetlinkMessage::SetLink(link), NLM_F_ACK)
            .map(drop)
    }

    /// The route to an address.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Refused`] if there is none.
    pub fn route(&mut self, to: IpAddr) -> Result<Route, NetlinkError> {
        let mut route = RouteMessage::default();
        (
            route.header.address_family,
            route.header.destination_prefix_length,
        ) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        route
            .attributes
            .push(RouteAttribute::Destination(to.into()));
        let answers = self.request(RouteNetlinkMessage::GetRoute(route), NLM_F_ACK)?;
        answers
            .iter()
            .find_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(route) => route_of(route, to),
                _ => None,
            })
            .ok_or(NetlinkError::Malformed)
    }

    /// Adds a rule or a route, unless the same is there already.
    ///
    /// # Errors
    ///
    /// [`NetlinkError`] but for "exists already".
    pub(crate) fn add(&mut self, message: RouteNetlinkMessage) -> Result<(), NetlinkError> {
        match self.request(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.errno() != Some(libc::EEXIST) => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes a rule or a route, if it is there.
    ///
    /// # Errors
    ///
    /// [`NetlinkError`] but for "no such rule" and "no such route".
    pub(crate) fn remove(&mut self, message: RouteNetlinkMessage) -> Result<(), NetlinkError> {
        match self.request(message, NLM_F_ACK) {
            Err(error) if !matches!(error.errno(), Some(libc::ENOENT | libc::ESRCH)) => Err(error),
            _ => Ok(()),
        }
    }

    /// State of a neighbour entry; `None` if the kernel has none.
    ///
    /// # Errors
    ///
    /// [`NetlinkError`] but for "no such entry".
    pub fn neighbour(
        &mut self,
        ifindex: u32,
        address: IpAddr,
    ) -> Result<Option<NeighbourState>, NetlinkError> {
        let request = RouteNetlinkMessage::GetNeighbour(neighbour_message(ifindex, address));
        match self.request(request, NLM_F_ACK) {
            Ok(answers) => Ok(answers.iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(found) => Some(found.header.state),
                _ => None,
            })),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has the kernel resolve (or confirm) a neighbour now, as if a packet were sent to it.
    ///
    /// # Errors
    ///
    /// [`NetlinkError`] if the kernel refuses.
    pub fn resolve(&mut self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut message = neighbour_message(ifindex, address);
        message.header.flags = NeighbourFlags::Use;
        message.header.state = NeighbourState::None;
        let request = RouteNetlinkMessage::NewNeighbour(message);
        self.request(request, NLM_F_ACK | NLM_F_CREATE).map(drop)
    }
}

fn neighbour_message(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = ifindex;
    let (family, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
    };
    message.header.family = family;
    message
        .attributes
        .push(NeighbourAttribute::Destination(destination));
    message
}

/// The sentence in an acknowledgement: its attributes follow the header of the request.
fn sentence(echoed: &[u8]) -> Option<String> {
    NlasIterator::new(echoed.get(HEADER_OCTETS..)?)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == ACK_MESSAGE)
        .map(|attribute| {
            let text = String::from_utf8_lossy(attribute.value());
            text.trim_end_matches('\0').to_owned()
        })
}

fn interface_of(link: &LinkMessage) -> InterfaceInfo {
    let mut interface = InterfaceInfo {
        index: link.header.index,
        name: String::new(),
        mtu: 0,
        up: link.header.flags.contains(LinkFlags::Up),
        kind: None,
        lower: None,
        peer_elsewhere: false,
        xdp: None,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::Link(index) => interface.lower = Some(*index),
            LinkAttribute::LinkNetNsId(_) => interface.peer_elsewhere = true,
            LinkAttribute::Xdp(xdp) => interface.xdp = xdp_of(xdp),
            LinkAttribute::LinkInfo(info) => {
                interface.kind = info.iter().find_map(|item| match item {
                    LinkInfo::Kind(kind) => Some(kind_name(kind)),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    interface
}

fn kind_name(kind: &InfoKind) -> String {
    kind.to_string()
}

fn xdp_of(attributes: &[LinkXdp]) -> Option<AttachedXdp> {
    let mut mode = None;
    let mut program_id = 0;
    for attribute in attributes {
        match attribute {
            LinkXdp::Attached(XdpAttached::None) => return None,
            LinkXdp::Attached(XdpAttached::Driver) => mode = Some(XdpMode::Native),
            LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = Some(XdpMode::Generic),
            LinkXdp::Attached(_) => mode = Some(XdpMode::Other),
            LinkXdp::ProgId(id) => program_id = *id,
            _ => {}
        }
    }
    mode.map(|mode| AttachedXdp { mode, program_id })
}

fn route_of(route: &RouteMessage, to: IpAddr) -> Option<Route> {
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    let mut found = Route {
        ifindex: 0,
        next_hop: to,
        source: None,
        local: route.header.kind == RouteType::Local,
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => found.ifindex = *index,
            RouteAttribute::Gateway(address) => found.next_hop = ip(address)?,
            RouteAttribute::PrefSource(address) => found.source = ip(address),
            RouteAttribute::Via(via) => {
                found.next_hop = match via {
                    netlink_packet_route::route::RouteVia::Inet(address) => IpAddr::V4(*address),
                    netlink_packet_route::route::RouteVia::Inet6(address) => IpAddr::V6(*address),
                    _ => return None,
                };
            }
            _ => {}
        }
    }
    (found.ifindex != 0).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_listed() {
        let lo = Netlink::open()
            .and_then(|mut netlink| netlink.interface("lo"))
            .expect("reading interfaces needs no privilege")
            .expect("every namespace has one");
        assert_eq!(lo.name, "lo");
        assert!(lo.index > 0);
    }

    #[test]
    fn a_local_address_is_routed_to_this_host() {
        let mut netlink = Netlink::open().expect("no privilege needed");
        let route = netlink.route("127.0.0.1".parse().unwrap()).unwrap();
        assert!(route.local);
        assert_eq!(route.source, Some("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn the_kernels_sentence_is_found_behind_the_echoed_header() {
        let mut octets = vec![0u8; HEADER_OCTETS];
        octets.extend([12, 0, 1, 0]);
        octets.extend(b"too big\0");
        assert_eq!(sentence(&octets).as_deref(), Some("too big"));
        assert_eq!(sentence(&[0; 3]), None);
    }
}
