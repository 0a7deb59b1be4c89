//! Listening sockets that others have opened: a predecessor, or the service manager.
//!
//! They are used and not bound anew, because connections that wait in a socket's queue are lost
//! with it. All sockets of an address are used, also where there are more of them than workers:
//! as long as nobody accepts from one, its share of the connections waits for ever.

use super::socket::{Kind, Socket};
use crate::net::{datagram, listen};
use crate::types::Protocol;
use nix::sys::socket::{getsockopt, sockopt};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// Sockets that are given, until listeners take them.
#[derive(Debug, Default)]
pub struct Inherited {
    groups: Vec<Group>,
}

/// The sockets of one address.
#[derive(Debug)]
struct Group {
    place: Place,
    sockets: Vec<(usize, OwnedFd)>,
}

/// Whose a socket was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The listener's name; empty if it is not known.
    pub name: String,
    /// What is spoken.
    pub protocol: Protocol,
    /// The address of the configuration: port 0 leaves the choice to the system.
    pub asked: SocketAddr,
    /// The address that it has.
    pub bound: SocketAddr,
}

impl Inherited {
    /// Adds a socket. `number` orders those of one place.
    pub fn add(&mut self, place: Place, number: usize, socket: OwnedFd) {
        let known = self.groups.iter().position(|group| group.place == place);
        let index = known.unwrap_or_else(|| {
            self.groups.push(Group {
                place,
                sockets: Vec::new(),
            });
            self.groups.len() - 1
        });
        let sockets = &mut self.groups[index].sockets;
        let at = sockets.partition_point(|(other, _)| *other < number);
        sockets.insert(at, (number, socket));
    }

    /// Takes the sockets for a listener, and where they are bound. Where the address says which
    /// ones are meant, the name does not matter.
    pub fn take(
        &mut self,
        protocol: Protocol,
        name: &str,
        address: SocketAddr,
    ) -> Option<(SocketAddr, Vec<OwnedFd>)> {
        let fits = |group: &Group| {
            let Place { asked, bound, .. } = group.place;
            group.place.protocol == protocol && (asked == address || bound == address)
        };
        let named = |group: &Group| fits(group) && group.place.name == name;
        let mut groups = self.groups.iter();
        let index = groups.position(named).or_else(|| {
            let mut groups = self.groups.iter();
            groups.position(|group| address.port() != 0 && fits(group))
        })?;
        let Group { place, sockets } = self.groups.remove(index);
        let sockets = sockets.into_iter().map(|(_, socket)| socket);
        Some((place.bound, sockets.collect()))
    }

    /// What nobody has taken.
    pub fn unused(&self) -> Vec<(Protocol, SocketAddr)> {
        let places = self.groups.iter().map(|group| &group.place);
        places.map(|place| (place.protocol, place.bound)).collect()
    }
}

/// Makes what is given enough for `workers`, where that can be done without taking connections or
/// sources from the sockets that there are.
///
/// # Errors
///
/// What the system says.
pub(super) fn complete(
    kind: Kind,
    bound: SocketAddr,
    given: Vec<OwnedFd>,
    workers: usize,
) -> io::Result<Vec<Socket>> {
    let is_shared = match given.first() {
        Some(first) => getsockopt(first, sockopt::ReusePort)?,
        None => true,
    };
    let mut sockets = Vec::with_capacity(given.len().max(workers));
    for socket in given {
        sockets.push(prepare(kind, bound, socket)?);
    }
    // More sockets for datagrams would send known sources to other workers.
    while kind != Kind::Udp && sockets.len() < workers {
        sockets.push(if is_shared {
            Socket::bind(kind, bound)?
        } else {
            // The service manager has not set `SO_REUSEPORT`: all accept from one queue.
            sockets[0].try_clone()?
        });
    }
    Ok(sockets)
}

fn prepare(kind: Kind, bound: SocketAddr, socket: OwnedFd) -> io::Result<Socket> {
    match kind.protocol() {
        Protocol::Tcp => listen::prepare(&socket)?,
        Protocol::Udp => datagram::prepare(&socket, bound)?,
    }
    Ok(Socket::of(kind, socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn place(name: &str, address: &str) -> Place {
        let address = address.parse().expect("an address");
        Place {
            name: name.to_owned(),
            protocol: Protocol::Tcp,
            asked: address,
            bound: address,
        }
    }

    fn socket() -> OwnedFd {
        TcpListener::bind("127.0.0.1:0").expect("bound").into()
    }

    fn given(places: &[Place]) -> Inherited {
        let mut inherited = Inherited::default();
        for place in places {
            inherited.add(place.clone(), 0, socket());
        }
        inherited
    }

    #[test]
    fn sockets_are_taken_by_address_whatever_the_name_is() {
        let mut inherited = given(&[place("old", "192.0.2.1:80"), place("web", "192.0.2.1:81")]);
        let wanted = "192.0.2.1:80".parse().expect("an address");
        let taken = inherited.take(Protocol::Tcp, "web", wanted);
        assert_eq!(
            taken.map(|(bound, all)| (bound, all.len())),
            Some((wanted, 1))
        );
        assert!(inherited.take(Protocol::Udp, "web", wanted).is_none());
        let left = inherited.unused();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].1.port(), 81);
    }

    #[test]
    fn where_the_system_chose_the_port_the_name_decides() {
        let mut two = [place("a", "127.0.0.1:0"), place("b", "127.0.0.1:0")];
        two[0].bound.set_port(4001);
        two[1].bound.set_port(4002);
        let mut inherited = given(&two);
        let any = "127.0.0.1:0".parse().expect("an address");
        assert!(inherited.take(Protocol::Tcp, "c", any).is_none());
        let (bound, _) = inherited.take(Protocol::Tcp, "b", any).expect("given");
        assert_eq!(bound.port(), 4002);
    }

    #[test]
    fn all_sockets_are_used_and_more_are_bound_for_more_workers() {
        let address = "127.0.0.1:0".parse().expect("an address");
        let first = listen::bind(address).expect("bound");
        let bound = first.local_addr().expect("bound");
        let one = || first.try_clone().expect("copied").into();
        let count = |given, workers| {
            let sockets = complete(Kind::Http, bound, given, workers);
            sockets.expect("completed").len()
        };
        assert_eq!(count(vec![one(), one(), one()], 2), 3);
        assert_eq!(count(vec![one()], 3), 3);
        let single = socket();
        let single_bound = TcpListener::from(single.try_clone().expect("copied"));
        let bound = single_bound.local_addr().expect("bound");
        let sockets = complete(Kind::Tcp, bound, vec![single], 2).expect("shared");
        assert!(sockets.iter().all(|it| it.local_addr().ok() == Some(bound)));
    }

    #[test]
    fn known_sources_stay_with_their_sockets() {
        let address = "127.0.0.1:0".parse().expect("an address");
        let first = datagram::bind(address).expect("bound");
        let bound = first.local_addr().expect("bound");
        let sockets = complete(Kind::Udp, bound, vec![first.into()], 4);
        assert_eq!(sockets.expect("completed").len(), 1);
    }
}
