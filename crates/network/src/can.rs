//! A CAN interface of the host in a container's network namespace: a pair of virtual CAN interfaces
//! (vxcan) with one end on each side, and two rules of the kernel's CAN gateway (can-gw) that pass
//! frames between the host's end and the bus, in both directions.
//!
//! Everything goes with the namespace: its end takes the host's along, and an interface that goes
//! takes the rules that name it. Layout: `linux/can/gw.h`, `linux/can/vxcan.h`.

use std::os::fd::{AsRawFd, BorrowedFd};

use robot_env_diag::{Error, Kind, Result};
use robot_env_sys::netlink::{CREATE, EXCLUSIVE, Message, RouteSocket};
use rustix::io::Errno;

use crate::link::{Links, interface};
use crate::plan::random;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWROUTE: u16 = 24;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VXCAN_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 1;
const CGW_TYPE_CAN_CAN: u8 = 1;
/// Programs of the sending side's interface see the frame, too, as on a bus.
const CGW_FLAGS_CAN_ECHO: u16 = 1;
const CGW_SRC_IF: u16 = 9;
const CGW_DST_IF: u16 = 10;

/// What hosts' ends of vxcan pairs begin with.
pub const VXCAN_PREFIX: &str = "rc-";

/// The pair: `host` here, `name` in the namespace.
fn pair(host: &str, name: &str, namespace: i32) -> Message {
    let mut message =
        Message::new(RTM_NEWLINK, CREATE | EXCLUSIVE, format!("RTM_NEWLINK({host}, vxcan, {name})"))
            .fixed(&interface(0, IFF_UP, IFF_UP));
    message.text(IFLA_IFNAME, host);
    let info = message.begin(IFLA_LINKINFO);
    message.text(IFLA_INFO_KIND, "vxcan");
    let data = message.begin(IFLA_INFO_DATA);
    let peer = message.begin(VXCAN_INFO_PEER);
    message = message.fixed(&interface(0, 0, 0));
    message.text(IFLA_IFNAME, name).number(IFLA_NET_NS_FD, namespace as u32);
    message.end(peer);
    message.end(data);
    message.end(info);
    message
}

/// The rule that passes frames from one interface to another.
fn passing(from: u32, to: u32) -> Message {
    let [low, high] = CGW_FLAGS_CAN_ECHO.to_ne_bytes();
    let mut message = Message::new(RTM_NEWROUTE, 0, format!("RTM_NEWROUTE(can-gw, {from} to {to})"))
        .fixed(&[libc::AF_CAN as u8, CGW_TYPE_CAN_CAN, low, high]);
    message.number(CGW_SRC_IF, from).number(CGW_DST_IF, to);
    message
}

/// Brings the host's CAN interface `name` into a network namespace, under the same name.
///
/// [`Kind::Unsupported`]: the kernel has no vxcan or no CAN gateway. [`Kind::NotFound`]: the host has
/// no such interface.
pub fn join(name: &str, namespace: BorrowedFd<'_>) -> Result<()> {
    let wrong =
        |kind, reason: &str| Error::new(kind, format!("cannot join CAN interface `{name}`: {reason}"));
    let mut links = Links::open()?;
    if !links.has_kind("vxcan")? {
        return Err(wrong(Kind::Unsupported, "this kernel has no vxcan")
            .with_hint("with `--network host` a container has the host's interfaces themselves"));
    }
    let bus = links.find(name)?.ok_or_else(|| wrong(Kind::NotFound, "the host has no such interface"))?;
    let host = random::<6>().iter().fold(VXCAN_PREFIX.to_owned(), |text, byte| text + &format!("{byte:02x}"));
    let refused = |error: robot_env_sys::CallError| match error.errno() {
        Errno::OPNOTSUPP | Errno::AFNOSUPPORT => {
            wrong(Kind::Unsupported, "this kernel has no CAN gateway (can-gw)").because(error)
        }
        errno => wrong(Kind::of_errno(errno.raw_os_error()), "the kernel refuses it").because(error),
    };
    let mut route = RouteSocket::open()?;
    route.socket().request(&mut [pair(&host, name, namespace.as_raw_fd())]).map_err(refused)?;
    let end = links.find(&host)?.ok_or_else(|| wrong(Kind::NotFound, "the pair vanished"))?;
    let mut up =
        Message::new(RTM_NEWLINK, 0, format!("RTM_NEWLINK({name}, up)")).fixed(&interface(0, IFF_UP, IFF_UP));
    up.text(IFLA_IFNAME, name);
    RouteSocket::open_in(namespace)?.socket().request(&mut [up]).map_err(refused)?;
    let rules = [passing(bus.index, end.index), passing(end.index, bus.index)];
    // Each in a request of its own: these answer to one at a time.
    for rule in rules {
        route.socket().request(&mut [rule]).map_err(refused)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use robot_env_sys::netlink::attributes;

    use super::*;

    /// The fixed part and the attributes behind a message's header.
    fn parts(message: &Message, fixed: usize) -> (Vec<u8>, Vec<(u16, Vec<u8>)>) {
        let body = &message.bytes()[16..];
        let all = attributes(&body[fixed..]).map(|(kind, value)| (kind, value.to_vec())).collect();
        (body[..fixed].to_vec(), all)
    }

    #[test]
    fn a_pair_is_one_message() {
        let (fixed, all) = parts(&pair("rc-1", "can0", 7), 16);
        assert_eq!(fixed[8..12], 1u32.to_ne_bytes(), "up");
        assert_eq!(all[0], (IFLA_IFNAME, b"rc-1\0".to_vec()));
        let info: Vec<_> = attributes(&all[1].1).collect();
        assert_eq!((all[1].0, info[0]), (IFLA_LINKINFO, (IFLA_INFO_KIND, &b"vxcan\0"[..])));
        let data: Vec<_> = attributes(info[1].1).collect();
        assert_eq!(data[0].0, VXCAN_INFO_PEER);
        let peer: Vec<_> = attributes(&data[0].1[16..]).collect();
        assert_eq!(peer, [(IFLA_IFNAME, &b"can0\0"[..]), (IFLA_NET_NS_FD, &7u32.to_ne_bytes()[..])]);
    }

    #[test]
    fn a_rule_names_both_ends() {
        let (fixed, all) = parts(&passing(3, 9), 4);
        // struct rtcanmsg: AF_CAN, CGW_TYPE_CAN_CAN, flags.
        assert_eq!(fixed, [29, 1, 1, 0]);
        let number = |n: u32| n.to_ne_bytes().to_vec();
        assert_eq!(all, [(CGW_SRC_IF, number(3)), (CGW_DST_IF, number(9))]);
    }
}
