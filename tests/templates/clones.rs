//! Many pods at once from one template: each has its own randomness, names, address and time.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Command as Host;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crx_fixture::leftovers::{self, Leftovers};
use crx_fixture::{Bundle, Need, Outcome, Running, need, scale};
use serde_json::json;

use crate::store::{Store, was_restored};

/// Runs containers of bundles at once, a few at a time as the host's memory allows, and their outcomes.
fn at_once(store: &Store, bundles: &[Bundle]) -> Vec<Outcome> {
    let running: Vec<_> =
        bundles.iter().map(|bundle| store.of(bundle.command_with(&["--timing"])).start()).collect();
    running.into_iter().map(|running| running.wait().expect(0)).collect()
}

/// The values of `name=` lines, one of each clone.
fn values(outcomes: &[Outcome], name: &str) -> Vec<String> {
    let value = |outcome: &Outcome| {
        let out = outcome.out();
        let line = out.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {name} in {}", outcome.all())).to_owned()
    };
    outcomes.iter().map(value).collect()
}

fn expect_all_different(outcomes: &[Outcome], name: &str) {
    let values = values(outcomes, name);
    let different: BTreeSet<_> = values.iter().collect();
    assert_eq!(different.len(), values.len(), "{name}: {values:?}");
}

#[test]
fn clones_share_no_randomness_no_name_and_no_address() {
    if !need::met(&[Need::Pod, Need::Debian]) {
        return;
    }
    let _alone = leftovers::alone();
    let store = Store::filled();
    let before = Leftovers::now();
    let count = scale::count("clones of a template at once", 100, 2);
    // getrandom(2) is system call 318; the sequence number of a connection is read as checkpoints read it (TCP_REPAIR).
    let script = r#"
        use Socket;
        sub random { my $b = "\0" x 16; syscall(318, $b, 16, 0) == 16 or die; unpack("H*", $b) }
        sub file { open(my $f, "<", $_[0]) or die "$_[0]: $!"; my $l = <$f>; chomp $l; $l }
        print "getrandom=", random(), "\n";
        open(my $u, "<:raw", "/dev/urandom") or die; sysread($u, my $b, 16); print "urandom=", unpack("H*", $b), "\n";
        print "uuid=", file("/proc/sys/kernel/random/uuid"), "\n";
        print "boot_id=", file("/proc/sys/kernel/random/boot_id"), "\n";
        print "hostname=", file("/proc/sys/kernel/hostname"), "\n";
        print "machine_id=", file("/etc/machine-id"), "\n";
        socket(my $l, PF_INET, SOCK_STREAM, 0); bind($l, sockaddr_in(0, INADDR_LOOPBACK)) or die "bind: $!"; listen($l, 1);
        my ($port) = sockaddr_in(getsockname($l));
        socket(my $c, PF_INET, SOCK_STREAM, 0); connect($c, sockaddr_in($port, INADDR_LOOPBACK)) or die "connect: $!";
        setsockopt($c, 6, 19, pack("i", 1)) or die "repair: $!"; setsockopt($c, 6, 20, pack("i", 2)) or die;
        print "sequence=", unpack("I", getsockopt($c, 6, 21)), "\n";
        print "ports=$port ", (sockaddr_in(getsockname($c)))[0], "\n";
        open(my $v, "<", "/dev/vsock") or die "vsock: $!"; my $cid = "\0" x 4; ioctl($v, 0x7b9, $cid) or die "cid: $!";
        print "cid=", unpack("I", $cid), "\n";
    "#;
    let bundles: Vec<_> = (0..count)
        .map(|number| {
            let bundle = Bundle::debian()
                .args(&["perl", "-e", script])
                .mount("/dev/vsock", "bind", "/dev/vsock", &["bind"])
                .capabilities(&["CAP_NET_ADMIN"])
                .set("/linux/resources/devices", json!([{"allow": true, "access": "rwm"}]))
                .set("/hostname", json!(format!("clone-{number}")));
            std::fs::write(bundle.rootfs().join("etc/machine-id"), format!("{number:032x}\n")).unwrap();
            bundle
        })
        .collect();
    let outcomes = at_once(&store, &bundles);
    assert!(outcomes.iter().all(was_restored));
    for name in ["getrandom", "urandom", "uuid", "boot_id", "hostname", "machine_id", "sequence", "cid"] {
        expect_all_different(&outcomes, name);
    }
    // Two of a hundred may draw the same of 28,000; all of them do only if none draws.
    let ports: BTreeSet<_> = values(&outcomes, "ports").into_iter().collect();
    assert!(ports.len() > outcomes.len() * 9 / 10, "{ports:?}");
    drop(bundles);
    before.expect_none_new("clones of a template");
}

/// A line of the output, waited for.
fn line(running: &Running, number: usize) -> String {
    loop {
        let out = running.stdout_so_far();
        if let Some(line) = out.split_inclusive('\n').nth(number).filter(|line| line.ends_with('\n')) {
            return line.to_owned();
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// How far a pod's CLOCK_REALTIME is from the host's at least, whatever the way of the question and the answer took.
fn least_clock_error(store: &Store) -> Duration {
    let bundle = Bundle::debian().args(&[
        "perl",
        "-MTime::HiRes=time",
        "-e",
        r#"$| = 1; print "ready\n"; while (<STDIN>) { printf "%.6f\n", time }"#,
    ]);
    let mut running = store.of(bundle.command()).start();
    running.wait_for("ready\n");
    let mut stdin = running.take_stdin();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut least = Duration::MAX;
    for number in 1..=20 {
        let asked = now();
        stdin.write_all(b"?\n").unwrap();
        let answer = line(&running, number);
        let answered = now();
        let guest = Duration::from_secs_f64(answer.trim().parse().unwrap());
        let error = asked.saturating_sub(guest).max(guest.saturating_sub(answered));
        least = least.min(error);
    }
    drop(stdin);
    let _ = running.wait().expect(0);
    least
}

#[test]
fn the_clock_is_the_host_s_and_a_template_does_not_age() {
    if !need::met(&[Need::Pod, Need::Debian]) {
        return;
    }
    let store = Store::filled();
    let most = Duration::from_millis(10);
    let error = least_clock_error(&store);
    assert!(error <= most, "{error:?}");
    // The lab's clock is the test's to set: a day passes, in which the template lies there.
    if !Path::new("/lab/in").exists() {
        return;
    }
    let set =
        |words: &str| assert!(Host::new("date").args(["--set", words]).output().unwrap().status.success());
    set("+1 day");
    let error = std::panic::catch_unwind(|| least_clock_error(&store));
    set("-1 day");
    let error = error.unwrap();
    assert!(error <= most, "a day later: {error:?}");
}

#[test]
fn monotonic_clocks_go_on_from_the_template_and_never_back() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let store = Store::filled();
    let bundle = Bundle::busybox().script("cat /proc/uptime; sleep 0.1; cat /proc/uptime");
    let uptimes = || {
        let out = store.run(&bundle, &[]).expect(0).out();
        let first = |line: &str| line.split(' ').next().unwrap().parse::<f64>().unwrap();
        out.lines().map(first).collect::<Vec<_>>()
    };
    let before = uptimes();
    std::thread::sleep(Duration::from_secs(20));
    let after = uptimes();
    for pair in [&before, &after] {
        assert!(pair[0] > 0.0 && pair[1] >= pair[0] + 0.09, "{pair:?}");
    }
    // The time between the two launches is not in the second's.
    assert!((after[0] - before[0]).abs() < 10.0, "{before:?} {after:?}");
}

#[test]
fn a_guest_goes_on_long_after_its_restore() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let store = Store::filled();
    // Timers, several processes, memory and files: what the guest's kernel had set up before it was saved.
    let script = "for i in 1 2 3; do sleep 0.2 & done; wait; dd if=/dev/zero of=/tmp/file bs=1M count=8 2>&1 | tail -n 1; \
                  sha256sum /tmp/file; read line; echo \"$line\"";
    let bundle = Bundle::busybox().script(script);
    let outcome = store.of(bundle.command()).input("over\n").run().expect(0);
    let zeroes = "2daeb1f36095b44b318410b3f4e8b5d989dcc7bb023d1426c492dab0a3053e74";
    assert!(outcome.out().contains(zeroes), "{}", outcome.all());
    assert!(outcome.out().ends_with("over\n"), "{}", outcome.all());
}
