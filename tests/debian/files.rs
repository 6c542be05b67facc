//! Many small files: created, renamed, removed; the host sees the same.

use std::collections::BTreeSet;
use std::fs;

use crx_fixture::{Bundle, Need, need, scale};

/// Makes $ARGV[0] files, renames every one into another directory, removes those with an odd number.
const WORK: &str = r#"
my $count = $ARGV[0];
mkdir "/work" or die; mkdir "/work/a" or die; mkdir "/work/b" or die;
for my $i (1..$count) {
    open(my $f, ">", "/work/a/$i") or die "create $i: $!"; print $f "file $i\n"; close($f) or die "close $i: $!";
}
opendir(my $d, "/work/a") or die; my @names = grep { !/^\./ } readdir($d); closedir($d);
die "listed " . @names unless @names == $count;
for my $i (1..$count) { rename("/work/a/$i", "/work/b/new-$i") or die "rename $i: $!"; }
rmdir "/work/a" or die "rmdir: $!";
for my $i (1..$count) { next unless $i % 2; unlink("/work/b/new-$i") or die "unlink $i: $!"; }
for my $i (1..$count) {
    if ($i % 2) { die "$i is still there" if -e "/work/b/new-$i"; next; }
    open(my $f, "<", "/work/b/new-$i") or die "open $i: $!"; my $line = <$f>; die "$i has $line" unless $line eq "file $i\n";
}
print "done\n";
"#;

#[test]
fn small_files_are_created_renamed_and_removed() {
    if !need::met(&[Need::Container, Need::Debian, Need::Program("prlimit")]) {
        return;
    }
    let count = scale::count("small files", 10_000, 200);
    let bundle = Bundle::debian().args(&["perl", "-e", WORK, &count.to_string()]);
    // Fewer descriptors than files: the server must not need one for each.
    let outcome = bundle.command().wrapped(&["prlimit", "--nofile=1024:"]).run().expect(0);
    assert_eq!(outcome.out(), "done\n", "{}", outcome.all());
    let left: BTreeSet<String> = fs::read_dir(bundle.rootfs().join("work/b"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let expected: BTreeSet<String> = (1..=count).filter(|i| i % 2 == 0).map(|i| format!("new-{i}")).collect();
    assert!(left == expected, "{} files are left instead of {}", left.len(), expected.len());
    for i in [2, count / 2 * 2] {
        assert_eq!(
            fs::read_to_string(bundle.rootfs().join(format!("work/b/new-{i}"))).unwrap(),
            format!("file {i}\n")
        );
    }
    assert!(!bundle.rootfs().join("work/a").exists());
}
