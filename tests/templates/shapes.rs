//! Pods of other shapes than the template's: more processors come online and more memory is added after the restore; what
//! cannot be made of it boots.

use crx_fixture::{Bundle, Need, need};

use crate::store::{Store, was_restored};

/// Processors and memory (kB) that a pod of these options has, and whether it was restored.
fn shape(store: &Store, words: &[&str]) -> (u32, u64, bool) {
    let bundle = Bundle::busybox().script("nproc; cat /proc/meminfo");
    let words = [&["--timing"][..], words].concat();
    let outcome = store.run(&bundle, &words).expect(0);
    assert!(!outcome.err().contains("warning"), "{}", outcome.all());
    let out = outcome.out();
    let (processors, memory) = out.split_once('\n').unwrap();
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let total_kb = total.trim().trim_end_matches(" kB").parse().unwrap();
    (processors.parse().unwrap(), total_kb, was_restored(&outcome))
}

#[test]
fn more_processors_come_online() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let store = Store::filled();
    assert_eq!(shape(&store, &[]).0, 1);
    for vcpus in [2, 4] {
        let (processors, _, restored) = shape(&store, &["--vcpus", &vcpus.to_string()]);
        assert_eq!((processors, restored), (vcpus, true));
    }
    assert_eq!(store.list().len(), 1, "one template for all");
}

#[test]
fn more_memory_is_added() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let store = Store::filled();
    let (_, plain_kb, _) = shape(&store, &[]);
    for memory_mib in [384, 1024] {
        let (_, total_kb, restored) = shape(&store, &["--memory", &memory_mib.to_string()]);
        assert!(restored);
        let added_mib = (total_kb - plain_kb) >> 10;
        // Less what describes it, 16 bytes of each KiB.
        let (least, most) = ((memory_mib - 256) * 97 / 100, memory_mib - 256);
        assert!((least..=most).contains(&added_mib), "{added_mib} MiB for --memory {memory_mib}");
    }
    assert_eq!(store.list().len(), 1, "one template for all");
}

#[test]
fn a_pod_that_no_template_fits_boots() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let store = Store::filled();
    let (processors, total_kb, restored) = shape(&store, &["--memory", "128"]);
    assert_eq!((processors, restored), (1, false));
    assert!(total_kb < 128 << 10, "{total_kb} kB");
    let (processors, _, restored) = shape(&store, &["--vcpus", "9"]);
    assert_eq!((processors, restored), (9, false));
}
