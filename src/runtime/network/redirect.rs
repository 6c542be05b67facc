//! Redirections: every frame that comes in on one interface goes out on another (tc-mirred(8)).
//!
//! The filter is u32 with a key that always matches, not matchall: it is as old as the action and in every kernel's
//! configuration, and for one filter they cost the same.

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirrorOption, TcActionOption, TcActionType, TcAttribute,
    TcFilterU32Option, TcHandle, TcMessage, TcMirror, TcMirrorActionType, TcOption, TcU32Key, TcU32Selector,
    TcU32SelectorFlags,
};

use super::netlink::Socket;

/// Marks our filters: whatever else somebody has set up is left alone. The kernel keeps at most 16 bytes (TC_COOKIE_MAX_SIZE).
const COOKIE: &[u8] = b"crx";
/// Handle of the ingress qdisc (linux/pkt_sched.h, TC_H_INGRESS), and parent of its filters.
const QDISC: TcHandle = TcHandle { major: 0xffff, minor: 0 };
/// Every protocol (ETH_P_ALL, linux/if_ether.h), as in the lower half of a filter's `info`; the upper is the priority.
const ALL_WITH_PRIORITY_1: u32 = (1 << 16) | (libc::ETH_P_ALL as u16).to_be() as u32;

/// Redirects what comes in on the interface with index `from` out of that with index `to`.
///
/// # Errors
/// EEXIST: it has an ingress qdisc; ENODEV: it is gone; others of the kernel.
pub(super) fn add(from: u32, to: u32) -> io::Result<()> {
    let mut socket = Socket::route()?;
    let mut qdisc = ingress(from);
    qdisc.attributes.push(TcAttribute::Kind("ingress".to_owned()));
    socket.request(RouteNetlinkMessage::NewQueueDiscipline(qdisc), NLM_F_CREATE | NLM_F_EXCL)?;
    let added =
        socket.request(RouteNetlinkMessage::NewTrafficFilter(filter(from, to)), NLM_F_CREATE | NLM_F_EXCL);
    added.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => io::Error::other(
            "the host has no tc filter u32 or action mirred (modules cls_u32 and act_mirred)",
        ),
        _ => error,
    })
}

/// Removes our redirection from an interface if it leads to a tap that is gone.
///
/// # Errors
/// The kernel's.
pub(super) fn remove_stale(from: u32) -> io::Result<()> {
    let mut socket = Socket::route()?;
    let mut filters = TcMessage::with_index(from.cast_signed());
    filters.header.parent = QDISC;
    let filters = match socket.list(&RouteNetlinkMessage::GetTrafficFilter(filters)) {
        // No ingress qdisc.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
        filters => filters?,
    };
    if filters.iter().any(is_stale) {
        socket.request(RouteNetlinkMessage::DelQueueDiscipline(ingress(from)), 0)?;
    }
    Ok(())
}

/// Removes the redirection from an interface, wherever it leads. One without, or that is gone, is fine.
///
/// # Errors
/// The kernel's.
pub(super) fn remove(from: u32) -> io::Result<()> {
    let removed = Socket::route()?.request(RouteNetlinkMessage::DelQueueDiscipline(ingress(from)), 0);
    match removed {
        // EINVAL: its ingress qdisc is gone.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)) => {
            Ok(())
        }
        removed => removed,
    }
}

fn ingress(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.handle = QDISC;
    message.header.parent = TcHandle::INGRESS;
    message
}

fn filter(from: u32, to: u32) -> TcMessage {
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    let mut action = TcAction::default();
    action.tab = 1;
    action.attributes = vec![
        TcActionAttribute::Kind("mirred".to_owned()),
        TcActionAttribute::Cookie(COOKIE.to_vec()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    let mut everything = TcU32Selector::default();
    everything.flags = TcU32SelectorFlags::Terminal;
    everything.nkeys = 1;
    everything.keys = vec![TcU32Key::default()];

    let mut message = TcMessage::with_index(from.cast_signed());
    message.header.parent = QDISC;
    message.header.info = ALL_WITH_PRIORITY_1;
    message.attributes = vec![
        TcAttribute::Kind("u32".to_owned()),
        TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(everything)),
            TcOption::U32(TcFilterU32Option::Action(vec![action])),
        ]),
    ];
    message
}

/// True for a filter of ours whose tap is gone: the kernel names interface 0 then (tcf_mirred_dump, act_mirred.c).
fn is_stale(message: &RouteNetlinkMessage) -> bool {
    let RouteNetlinkMessage::NewTrafficFilter(filter) = message else { return false };
    let options = filter.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    let actions = options.flatten().filter_map(|option| match option {
        TcOption::U32(TcFilterU32Option::Action(actions)) => Some(actions),
        _ => None,
    });
    actions.flatten().any(|action| {
        let ours = action
            .attributes
            .iter()
            .any(|it| matches!(it, TcActionAttribute::Cookie(cookie) if cookie == COOKIE));
        ours && action.attributes.iter().any(leads_nowhere)
    })
}

fn leads_nowhere(attribute: &TcActionAttribute) -> bool {
    let TcActionAttribute::Options(options) = attribute else { return false };
    options.iter().any(|option| {
        matches!(option, TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror)) if mirror.ifindex == 0)
    })
}
