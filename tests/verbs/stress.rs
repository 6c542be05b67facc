//! Many containers, one after the other and several at once, with commands killed on the way: nothing may stay.

use crx_fixture::leftovers::{self, Leftovers};
use crx_fixture::{Bundle, Need, need, scale};

use crate::detached::{Detached, verb};

fn life(container: &Detached) {
    container.create();
    container.start();
    let _ = container.command(&["kill"]).arg("KILL").run().expect(0);
    assert_eq!(container.wait_code(), 137);
    let _ = container.verb(&["delete"]).expect(0);
}

#[test]
fn many_lives_leave_nothing() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let rounds = scale::count("lives one after the other", 200, 2);
    let container = Detached::new(Bundle::busybox().script("sleep 1000"));
    for _ in 0..rounds {
        life(&container);
    }
    drop(container);
    before.expect_none_new("lives one after the other");
}

#[test]
fn lives_at_once_leave_nothing() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let rounds = scale::count("lives of each of several at once", 25, 1);
    let at_once = scale::count("lives at once", 8, 2);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                let container = Detached::new(Bundle::busybox().script("sleep 1000"));
                (0..rounds).for_each(|_| life(&container));
            });
        }
    });
    before.expect_none_new("lives at once");
}

#[test]
fn commands_killed_at_any_point_leave_nothing_that_delete_does_not_take() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let rounds = scale::count("commands that are killed", 40, 4);
    let container = Detached::new(Bundle::busybox().script("sleep 1000"));
    for round in 0..rounds {
        let mut words = verb("create").arg("--pid-file").arg(container.file("pid")).arg("--bundle");
        words = words.arg(container.bundle.path()).arg(container.id());
        let mut command = words.prepared();
        let null = std::process::Stdio::null;
        let mut child = command.stdin(null()).stdout(null()).stderr(null()).spawn().unwrap();
        // Somewhere between the first system call and a pod that is half up, differently each time.
        std::thread::sleep(std::time::Duration::from_micros(300 * 3_u64.pow((round % 8) as u32)));
        child.kill().unwrap();
        let _ = child.wait();
        let _ = container.verb(&["delete", "--force"]).expect(0);
    }
    // The next claim collects what a command left that died before there was a container.
    life(&container);
    drop(container);
    before.expect_none_new("commands that were killed");
}
