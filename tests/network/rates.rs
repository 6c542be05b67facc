//! Limits of what passes through a pod's interfaces.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crx_fixture::{Bundle, Need, need};
use serde_json::json;

use crate::place::{Place, accept};

/// The time is a lower bound: a machine that is slow by itself keeps it too.
#[test]
fn what_an_annotation_limits_takes_its_time() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let place = Place::enter();
    let pod = place.pod();
    let listener = TcpListener::bind("10.66.0.1:7777").unwrap();
    let limits = json!({"dev.crx.net.rx-bytes-per-second": "65536"});
    let bundle = Bundle::busybox()
        .script("n=$(nc 10.66.0.1 7777 | wc -c); echo $n | nc 10.66.0.1 7777")
        .set("/annotations", limits);
    let mut running = pod.run(&bundle).start();
    let mut stream = accept(&listener, &mut running);
    let began = Instant::now();
    stream.write_all(&[0; 640 << 10]).unwrap();
    drop(stream);
    let mut answer = accept(&listener, &mut running);
    let mut count = String::new();
    answer.read_to_string(&mut count).unwrap();
    assert_eq!(count.trim(), (640 << 10).to_string());
    // 256 KiB at once, 384 at 64 in a second; what is sent last is paid for afterwards.
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    drop(answer);
    let _ = running.wait().expect(0);
}
