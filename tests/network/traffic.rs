//! Bytes through a pod's interfaces.

use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use crx_fixture::{Bundle, Need, need, scale};

use crate::place::{Place, accept};

/// A byte stream without period that both sides can make.
pub(crate) fn chunk(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(1 << 16).collect()
}

/// Bytes go through `cat` of the pod and come back as they were, over one connection.
#[test]
fn a_connection_carries_much_both_ways_unchanged() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let place = Place::enter();
    let pod = place.pod();
    let listener = TcpListener::bind("10.66.0.1:7777").unwrap();
    let chunks = scale::count("MiB through a connection", 1024, 1) * 16;
    let bundle = Bundle::busybox().script("exec nc 10.66.0.1 7777 -e cat");
    let mut running = pod.run(&bundle).start();
    let mut stream = accept(&listener, &mut running);
    let mut writer: TcpStream = stream.try_clone().unwrap();
    let sent = thread::spawn(move || {
        let mut sum = DefaultHasher::new();
        for number in 0..chunks {
            let bytes = chunk(number);
            sum.write(&bytes);
            writer.write_all(&bytes).unwrap();
        }
        writer.shutdown(std::net::Shutdown::Write).unwrap();
        sum.finish()
    });
    let mut sum = DefaultHasher::new();
    let mut bytes = vec![0; 1 << 16];
    for number in 0..chunks {
        stream.read_exact(&mut bytes).unwrap_or_else(|error| panic!("chunk {number}: {error}"));
        sum.write(&bytes);
    }
    assert_eq!(sum.finish(), sent.join().unwrap());
    drop(stream);
    running.signal(rustix::process::Signal::KILL);
    let _ = running.wait();
}
