//! Rate limits in the worker; their arithmetic is tested beside it.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use super::super::Rate;
use super::guest::{rx, tx};
use super::*;

fn rate(per_second: u64, burst: u64) -> Option<Rate> {
    Some(Rate { per_second: NonZeroU64::new(per_second).unwrap(), burst })
}

fn limited(limits: Limits) -> Option<(Guest, Host)> {
    let (host, taps) = host(1)?;
    let (device, port) = net();
    let guest = Guest::started(device, u64::MAX);
    port.plug(taps, Carriers::Workers(limits)).unwrap();
    Some((guest, host))
}

#[test]
fn frames_of_the_guest_beyond_the_rate_wait_and_are_not_lost() {
    for limits in [
        Limits { tx_frames: rate(100, 10), ..Limits::default() },
        Limits { tx_bytes: rate(100_000, 10_000), ..Limits::default() },
    ] {
        let Some((mut guest, host)) = limited(limits) else { return };
        let started = Instant::now();
        for number in 0..50 {
            guest.send(tx(0), &frame(number, 1000));
        }
        for number in 0..50 {
            assert_eq!(host.receive().unwrap(), frame(number, 1000));
        }
        // 49 paid before the last one left, 10 of them at once.
        assert!(started.elapsed() >= Duration::from_millis(380), "{:?}", started.elapsed());
    }
}

#[test]
fn frames_for_the_guest_beyond_the_rate_wait_and_are_not_lost() {
    for limits in [
        Limits { rx_frames: rate(100, 10), ..Limits::default() },
        Limits { rx_bytes: rate(100_000, 10_000), ..Limits::default() },
    ] {
        let Some((mut guest, host)) = limited(limits) else { return };
        guest.give(rx(0), &[1514; 50]);
        let started = Instant::now();
        for number in 0..50 {
            host.send(&frame(number, 1000));
        }
        for number in 0..50 {
            assert_eq!(guest.receive(rx(0)).unwrap().0, frame(number, 1000));
        }
        assert!(started.elapsed() >= Duration::from_millis(380), "{:?}", started.elapsed());
    }
}
