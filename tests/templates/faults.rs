//! What may happen to templates: nothing of it may run a guest that is not as it was saved, lose a launch or leave anything.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command as Host;
use std::time::Duration;

use crx_fixture::leftovers::{self, Leftovers};
use crx_fixture::runtime::crx;
use crx_fixture::{Bundle, Need, Outcome, need};
use rustix::process::Signal;

use crate::store::{Store, was_restored};

fn launch(store: &Store) -> Outcome {
    store.run(&Bundle::busybox().script("echo here"), &["--timing"])
}

/// A launch that notices a damage, makes the template again, and runs.
fn expect_made_again(store: &Store, damage: &str) {
    let outcome = launch(store).expect(0);
    assert_eq!(outcome.out(), "here\n");
    assert!(outcome.err().contains("it is made again"), "{damage}: {}", outcome.all());
    assert!(was_restored(&outcome), "{damage}: {}", outcome.all());
    let next = launch(store).expect(0);
    assert!(was_restored(&next) && !next.err().contains("warning"), "{damage}: {}", next.all());
    let _ = store.template(&["verify"]).expect(0);
}

fn flip(file: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

/// Offset of a page of the memory that has content.
fn content(memory: &Path) -> u64 {
    let file = File::open(memory).unwrap();
    let at = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0x100_0000)).unwrap();
    at + 0x123
}

#[test]
fn a_flipped_bit_of_the_memory_is_noticed() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let store = Store::filled();
    let memory = store.only().join("memory");
    flip(&memory, content(&memory));
    let verified = store.template(&["verify"]).expect(1);
    assert!(verified.err().contains("memory: it is damaged"), "{}", verified.all());
    expect_made_again(&store, "a bit of the memory");
}

#[test]
fn a_flipped_bit_of_the_state_is_noticed() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let store = Store::filled();
    // Of the header; the rest of the state is checked where it is decoded.
    flip(&store.only().join("state"), 24);
    assert_eq!(store.list()[0]["status"], "damaged");
    expect_made_again(&store, "a bit of the header");
    flip(&store.only().join("state"), 5000);
    let _ = store.template(&["verify"]).expect(1);
    expect_made_again(&store, "a bit of the state");
}

#[test]
fn files_that_are_cut_short_or_gone_are_noticed() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let store = Store::filled();
    let cut = |name: &str, bytes: u64| {
        File::options().write(true).open(store.only().join(name)).unwrap().set_len(bytes).unwrap();
    };
    cut("memory", 100 << 20);
    expect_made_again(&store, "a short memory");
    cut("state", 700);
    expect_made_again(&store, "a short state");
    fs::remove_file(store.only().join("memory")).unwrap();
    expect_made_again(&store, "no memory");
}

#[test]
fn a_template_of_something_else_is_not_used() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let store = Store::filled();
    let ours = store.only();
    let other = Store::empty().with_own_guest();
    let _ = other.template(&["build"]).expect(0);
    fs::remove_dir_all(&ours).unwrap();
    let moved = Host::new("cp").arg("-a").arg(other.only()).arg(&ours).status().unwrap();
    assert!(moved.success());
    expect_made_again(&store, "another's template");
}

#[test]
fn a_template_that_is_removed_while_pods_run_from_it_is_still_theirs() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let store = Store::filled();
    let bundle = Bundle::busybox().script("echo ready; read line; sha256sum /bin/busybox; exec true");
    let mut running = store.of(bundle.command()).start();
    running.wait_for("ready\n");
    let _ = store.template(&["rm", "--all"]).expect(0);
    assert!(store.names().is_empty(), "{:?}", store.names());
    drop(running.take_stdin());
    let _ = running.wait().expect(0);
}

#[test]
fn a_killed_build_leaves_nothing_that_the_next_does_not_take() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let store = Store::empty();
    for milliseconds in [0, 2, 10, 50, 250, 1250] {
        let running = store.of(crx().args(["template", "build"])).start();
        std::thread::sleep(Duration::from_millis(milliseconds));
        running.signal(Signal::KILL);
        let _ = running.wait();
    }
    let name = store.template(&["build"]).expect(0).out().trim().to_owned();
    assert_eq!(store.names(), [name]);
    drop(store);
    before.expect_none_new("killed builds");
}

#[test]
fn launches_at_once_on_an_empty_store_make_one_template() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let store = Store::empty();
    let bundles = [(); 3].map(|()| Bundle::busybox().script("echo here"));
    let start = |bundle: &Bundle| {
        let mut words = crx().arg("--debug").arg("run").arg("--timing").arg("--bundle").arg(bundle.path());
        bundle.write();
        words = words.arg(bundle.id());
        store.of(words).start()
    };
    let running: Vec<_> = bundles.iter().map(start).collect();
    let outcomes: Vec<_> = running.into_iter().map(|running| running.wait().expect(0)).collect();
    assert!(outcomes.iter().all(was_restored));
    let made = outcomes.iter().filter(|outcome| outcome.err().contains("making template")).count();
    assert_eq!(made, 1, "{}", outcomes.iter().map(Outcome::err).collect::<String>());
    let _ = store.only();
}

#[test]
fn a_store_that_others_can_write_is_not_used() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let store = Store::filled();
    let _ = store.only();
    for (program, value) in [("chmod", "777"), ("chown", "65534")] {
        let _ = Host::new("chmod").arg("700").arg(store.path()).status().unwrap();
        let _ = Host::new(program).arg(value).arg(store.path()).status().unwrap();
        let outcome = launch(&store).expect(0);
        assert_eq!(outcome.out(), "here\n");
        assert!(!was_restored(&outcome), "{program}: {}", outcome.all());
        let warning = "the pod booted without a template: template store";
        assert!(outcome.err().contains(warning), "{program}: {}", outcome.all());
    }
}

#[test]
fn two_users_have_their_own_stores() {
    if !need::met(&[Need::Pod, Need::Program("setpriv")]) {
        return;
    }
    let home = tempfile::Builder::new().prefix("home-").tempdir().unwrap();
    let _ = Host::new("chown").arg("1234:1234").arg(home.path()).status().unwrap();
    let user = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups"];
    let listed = crx().args(["template", "list", "--format", "json"]).env("HOME", home.path());
    let listed = listed.wrapped(&user).run();
    assert_eq!(listed.expect(0).out(), "[]\n", "nobody else's templates");
    let refused = crx().args(["template", "build"]).env("HOME", home.path()).wrapped(&user).run();
    // Without a right on /dev/kvm; the store is there, and nothing in it.
    if refused.status.success() {
        assert!(home.path().join(".cache/crx/templates").is_dir());
    } else {
        assert!(refused.err().contains("/dev/kvm"), "{}", refused.all());
    }
}
