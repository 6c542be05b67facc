# File semantics, one line per check: "ok NAME" or "not ok NAME: why". Run as root in a container.
use strict;
use warnings;
use Fcntl qw(:DEFAULT :flock :seek :mode);
use POSIX qw(:errno_h mkfifo dup2 _exit);
use Socket;

my ($attribute, $outside) = @ARGV;
$| = 1;
umask 022;
mkdir "/s" or die "mkdir: $!";
chdir "/s" or die "chdir: $!";

# System calls of x86-64 that perl has no function for.
use constant {
    SYS_read => 0, SYS_mmap => 9, SYS_munmap => 11, SYS_msync => 26, SYS_fsync => 74, SYS_setxattr => 188, SYS_getxattr => 191,
    SYS_listxattr => 194, SYS_removexattr => 197, SYS_utimensat => 280, SYS_fallocate => 285, SYS_renameat2 => 316,
    SYS_copy_file_range => 326, SYS_statfs => 137,
};
use constant { AT_FDCWD => -100, SEEK_DATA => 3, SEEK_HOLE => 4 };

sub check { my ($name, $code) = @_; my $why = eval { $code->() }; $why = "died: $@" if $@; chomp($why //= ''); print $why eq '' ? "ok $name\n" : "not ok $name: $why\n"; }
sub put { my ($name, $text, $how) = @_; sysopen(my $f, $name, $how // (O_WRONLY | O_CREAT | O_TRUNC)) or die "open $name: $!\n"; syswrite($f, $text) == length $text or die "write $name: $!\n"; close $f or die "close $name: $!\n"; }
sub get { my ($name) = @_; open(my $f, '<', $name) or die "open $name: $!\n"; local $/; my $text = <$f>; return $text // ''; }
sub is { my ($what, $have, $want) = @_; return $have eq $want ? '' : "$what is '$have', not '$want'"; }
sub fails { my ($what, $worked, $errno) = @_; my $got = $! + 0; return "$what worked" if $worked; return $got == $errno ? '' : "$what: error $got, not $errno"; }
sub first { for my $why (@_) { return $why if $why ne ''; } return ''; }
# A child's exit code is the result.
sub child { my ($code) = @_; my $pid = fork // die "fork: $!\n"; if (!$pid) { my $result = eval { $code->() }; _exit($@ ? 99 : $result); } waitpid($pid, 0); return $? >> 8; }

check('hard links', sub {
    put('hard1', "one\n"); link('hard1', 'hard2') or return "link: $!";
    put('hard2', "two\n", O_WRONLY | O_APPEND);
    my @one = stat 'hard1'; my @two = stat 'hard2';
    return first(is('inode', $one[1], $two[1]), is('links', $one[3], 2), is('content', get('hard1'), "one\ntwo\n"));
});
check('hard link gone', sub {
    put('h', 'x'); link('h', 'i') or return "link: $!"; unlink 'h' or return "unlink: $!";
    return first(is('links', (stat 'i')[3], 1), is('content', get('i'), 'x'), fails('link over a file', link('i', 'hard1'), EEXIST));
});
check('rename over an open file', sub {
    put('r1', 'old'); put('r2', 'new'); open(my $f, '<', 'r1') or return "open: $!";
    rename('r2', 'r1') or return "rename: $!"; my $old = <$f>;
    return first(is('open file', $old, 'old'), is('name', get('r1'), 'new'), -e 'r2' ? 'the old name is there' : '');
});
check('unlinked open file', sub {
    open(my $f, '+>', 'u') or return "open: $!"; syswrite($f, 'before'); unlink 'u' or return "unlink: $!";
    syswrite($f, ' after'); sysseek($f, 0, SEEK_SET); sysread($f, my $text, 100); my @stat = stat $f;
    return first(is('content', $text, 'before after'), is('links', $stat[3], 0), is('size', $stat[7], 12), -e 'u' ? 'the name is there' : '');
});
check('sparse file', sub {
    open(my $f, '>', 'sparse') or return "open: $!"; sysseek($f, 5 << 30, SEEK_SET); syswrite($f, 'x'); close $f;
    my @stat = stat 'sparse'; open($f, '<', 'sparse'); sysseek($f, 5 << 30, SEEK_SET); sysread($f, my $end, 10);
    sysseek($f, 1 << 30, SEEK_SET); sysread($f, my $hole, 4);
    return first(is('size', $stat[7], (5 << 30) + 1), is('end', $end, 'x'), is('hole', $hole, "\0" x 4), $stat[12] * 512 < 1 << 20 ? '' : "$stat[12] blocks");
});
check('truncate', sub {
    put('t', '0123456789'); truncate('t', 4) or return "shorter: $!"; my $short = get('t'); truncate('t', 6) or return "longer: $!";
    return first(is('shorter', $short, '0123'), is('longer', get('t'), "0123\0\0"));
});
check('shared mapping', sub {
    put('mapped', 'a' x 8192); open(my $f, '+<', 'mapped') or return "open: $!";
    my $at = syscall(SYS_mmap, 0, 8192, 3, 1, fileno $f, 0); return "mmap: $!" if $at == -1;
    my $seen = unpack('P10', pack('Q', $at)); pipe(my $out, my $in) or die; syswrite($in, '0123456789');
    syscall(SYS_read, fileno $out, $at + 4096, 10) == 10 or return "read into the mapping: $!";
    my $file = ''; sysseek($f, 4096, SEEK_SET); sysread($f, $file, 10);
    syscall(SYS_msync, $at, 8192, 4) == 0 or return "msync: $!"; syscall(SYS_munmap, $at, 8192);
    return first(is('mapping', $seen, 'a' x 10), is('file', $file, '0123456789'), is('after', substr(get('mapped'), 4090, 20), 'aaaaaa0123456789aaaa'));
});
check('private mapping', sub {
    put('private', 'b' x 4096); open(my $f, '+<', 'private') or return "open: $!";
    my $at = syscall(SYS_mmap, 0, 4096, 3, 2, fileno $f, 0); return "mmap: $!" if $at == -1;
    pipe(my $out, my $in) or die; syswrite($in, 'zz'); syscall(SYS_read, fileno $out, $at, 2) == 2 or return "read: $!";
    my $seen = unpack('P3', pack('Q', $at)); syscall(SYS_munmap, $at, 4096);
    return first(is('mapping', $seen, 'zzb'), is('file', substr(get('private'), 0, 3), 'bbb'));
});
check('extended attributes', sub {
    put('x', ''); my $file = 'x'; my $value = "a\0b" . 'v' x 100; my $room = "\0" x 200;
    syscall(SYS_setxattr, $file, $attribute, $value, length $value, 0) == 0 or return "set: $!";
    my $length = syscall(SYS_getxattr, $file, $attribute, $room, 200); return "get: $!" if $length < 0;
    my $got = substr($room, 0, $length); my $names = "\0" x 500; my $listed = syscall(SYS_listxattr, $file, $names, 500);
    my $create = syscall(SYS_setxattr, $file, $attribute, $value, 1, 1); my $again = fails('create again', $create == 0, EEXIST);
    syscall(SYS_removexattr, $file, $attribute) == 0 or return "remove: $!";
    my $gone = fails('get of a removed one', syscall(SYS_getxattr, $file, $attribute, $room, 200) >= 0, 61);
    return first(is('value', $got, $value), index(substr($names, 0, $listed), $attribute) >= 0 ? '' : 'not listed', $again, $gone);
});
check('rename of directories', sub {
    mkdir 'd1'; mkdir 'd1/sub'; put('d1/sub/f', 'f'); mkdir 'd2'; put('d2/g', 'g');
    my $full = fails('rename over a full directory', rename('d1', 'd2'), ENOTEMPTY); my $rm = fails('rmdir of a full one', rmdir 'd1', ENOTEMPTY);
    my $into = fails('rename into itself', rename('d1', 'd1/sub/x'), EINVAL); rename('d1', 'd2/moved') or return "rename: $!";
    return first($full, $rm, $into, is('content', get('d2/moved/sub/f'), 'f'), -e 'd1' ? 'the old name is there' : '');
});
check('rename flags', sub {
    put('e1', '1'); put('e2', '2'); my ($one, $two) = ('e1', 'e2');
    my $keep = fails('no-replace', syscall(SYS_renameat2, AT_FDCWD, $one, AT_FDCWD, $two, 1) == 0, EEXIST);
    syscall(SYS_renameat2, AT_FDCWD, $one, AT_FDCWD, $two, 2) == 0 or return "exchange: $!";
    return first($keep, is('e1', get('e1'), '2'), is('e2', get('e2'), '1'));
});
check('append and exclusive', sub {
    put('a', ''); sysopen(my $one, 'a', O_WRONLY | O_APPEND) or die; sysopen(my $two, 'a', O_WRONLY | O_APPEND) or die;
    syswrite($one, '1'); syswrite($two, '2'); syswrite($one, '3');
    return first(is('content', get('a'), '123'), fails('exclusive', sysopen(my $f, 'a', O_CREAT | O_EXCL | O_WRONLY), EEXIST));
});
check('owner and mode', sub {
    put('owned', 'x'); chmod 0640, 'owned' or return "chmod: $!"; chown 1000, 1001, 'owned' or return "chown: $!";
    my @stat = stat 'owned'; return first(is('mode', $stat[2] & 07777, 0640), is('owner', "$stat[4]:$stat[5]", '1000:1001'));
});
check('setuid bit is lost', sub {
    put('suid', 'x'); chmod 06755, 'suid' or return "chmod: $!"; my $set = (stat 'suid')[2] & 07777; chown 1000, 1000, 'suid' or return "chown: $!";
    my $after = (stat 'suid')[2] & 07777; chmod 04777, 'suid';
    child(sub { $) = '2000 2000'; $> = 2000; put('suid', 'y', O_WRONLY); 0 }) == 0 or return 'the other user cannot write';
    return first(is('set', $set, 06755), is('after chown', $after & 04000, 0), is('after a write', (stat 'suid')[2] & 04000, 0));
});
check('permissions of others', sub {
    put('mine', 'x'); chmod 0600, 'mine'; mkdir 'closed', 0700; put('closed/f', 'x');
    my $read = child(sub { $) = '1000 1000'; $> = 1000; open(my $f, '<', 'mine') ? 0 : $! + 0 });
    my $below = child(sub { $) = '1000 1000'; $> = 1000; -e 'closed/f' ? 0 : $! + 0 });
    my $write = child(sub { $) = '1000 1000'; $> = 1000; open(my $f, '>', 'new') ? 0 : $! + 0 });
    my $chmod = child(sub { $) = '1000 1000'; $> = 1000; chmod(0666, 'mine') ? 0 : $! + 0 });
    return first(is('read', $read, EACCES), is('below', $below, EACCES), is('create', $write, EACCES), is('chmod', $chmod, EPERM));
});
check('files of a user', sub {
    mkdir 'shared'; chmod 02777, 'shared'; chown 0, 50, 'shared' or return "chown: $!"; chmod 02777, 'shared';
    child(sub { $) = '1000 1000'; $> = 1000; umask 027; put('shared/f', 'x'); mkdir 'shared/d' or die; 0 }) == 0 or return 'cannot create';
    my @f = stat 'shared/f'; my @d = stat 'shared/d';
    return first(is('owner', "$f[4]:$f[5]", '1000:50'), is('mode', sprintf('%o', $f[2] & 07777), '640'), is('directory', sprintf('%o', $d[2] & 07777), '2750'));
});
check('supplementary group', sub {
    put('group', 'x'); chown 0, 2000, 'group'; chmod 0640, 'group';
    my $with = child(sub { $) = '1000 1000 2000'; $> = 1000; open(my $f, '<', 'group') ? 0 : 1 });
    my $without = child(sub { $) = '1000 1000'; $> = 1000; open(my $f, '<', 'group') ? 0 : 1 });
    return first(is('with it', $with, 0), is('without it', $without, 1));
});
check('sticky directory', sub {
    mkdir 'sticky'; chmod 01777, 'sticky'; put('sticky/f', 'x');
    my $other = child(sub { $) = '1000 1000'; $> = 1000; unlink('sticky/f') ? 0 : $! + 0 });
    return is('unlink', $other, EPERM);
});
check('symbolic links', sub {
    my $long = 'x/' x 500; symlink($long, 'long') or return "symlink: $!"; symlink('loop', 'loop'); symlink('hard1', 'soft') or return "symlink: $!";
    return first(is('long', readlink 'long', $long), fails('loop', open(my $f, '<', 'loop'), ELOOP), is('content', get('soft'), "one\ntwo\n"), is('size', (lstat 'soft')[7], 5));
});
check('locks between processes', sub {
    open(my $f, '+>', 'lock') or die; flock($f, LOCK_EX) or return "flock: $!";
    my $other = child(sub { open(my $g, '+<', 'lock') or return 98; flock($g, LOCK_EX | LOCK_NB) ? 0 : $! + 0 });
    flock($f, LOCK_UN); my $free = child(sub { open(my $g, '+<', 'lock') or return 98; flock($g, LOCK_EX | LOCK_NB) ? 0 : 1 });
    return first(is('held', $other, EWOULDBLOCK), is('free', $free, 0));
});
check('record locks', sub {
    open(my $f, '+>', 'record') or die; my $lock = pack('s s x4 q q l', 1, 0, 0, 10, 0);
    fcntl($f, F_SETLK, $lock) or return "lock: $!";
    my $inside = child(sub { open(my $g, '+<', 'record') or return 98; my $l = pack('s s x4 q q l', 1, 0, 5, 1, 0); fcntl($g, F_SETLK, $l) ? 0 : 1 });
    my $beside = child(sub { open(my $g, '+<', 'record') or return 98; my $l = pack('s s x4 q q l', 1, 0, 20, 1, 0); fcntl($g, F_SETLK, $l) ? 0 : 1 });
    return first(is('inside', $inside, 1), is('beside', $beside, 0));
});
check('fifo', sub {
    mkfifo('fifo', 0622) or return "mkfifo: $!"; my $pid = fork // die; if (!$pid) { open(my $f, '>', 'fifo') or _exit(1); syswrite($f, 'through'); _exit(0); }
    open(my $f, '<', 'fifo') or return "open: $!"; my $text = <$f>; waitpid($pid, 0); return is('content', $text, 'through');
});
check('unix socket', sub {
    socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die; bind($s, pack_sockaddr_un('socket')) or return "bind: $!"; listen($s, 1);
    socket(my $c, AF_UNIX, SOCK_STREAM, 0) or die; connect($c, pack_sockaddr_un('socket')) or return "connect: $!";
    accept(my $a, $s); syswrite($c, 'hello'); sysread($a, my $text, 10); return first(is('content', $text, 'hello'), -S 'socket' ? '' : 'no socket file');
});
check('many names in a directory', sub {
    mkdir 'many'; for my $i (1..600) { put("many/name-of-a-file-$i", ''); }
    opendir(my $d, 'many') or die; my %seen; while (defined(my $name = readdir $d)) { $seen{$name}++; unlink "many/$name"; } closedir $d;
    my $twice = grep { $_ > 1 } values %seen; opendir($d, 'many'); my $left = grep { !/^\./ } readdir $d;
    return first(is('names', scalar(keys %seen), 602), is('seen twice', $twice, 0), is('left', $left, 0));
});
check('names', sub {
    my $longest = 'n' x 255; put($longest, 'x'); for my $odd ("new\nline", " space ", "\xff\xfe", "-dash", "\xc3\xbc") { put($odd, $odd); return "'$odd'" if get($odd) ne $odd; unlink $odd or return "unlink: $!"; }
    return fails('a name of 256', open(my $f, '>', 'n' x 256), ENAMETOOLONG);
});
check('times', sub {
    my $name = 'times'; put($name, 'x'); my $times = pack('q4', 900_000_000, 1, 1_000_000_000, 123_456_789);
    syscall(SYS_utimensat, AT_FDCWD, $name, $times, 0) == 0 or return "utimensat: $!"; my @stat = stat 'times';
    put('now', ''); my $old = (stat 'now')[9]; utime 5, 5, 'now'; put('now', 'x', O_WRONLY);
    return first(is('atime', $stat[8], 900_000_000), is('mtime', $stat[9], 1_000_000_000), (stat 'now')[9] >= $old ? '' : 'a write does not change mtime');
});
check('large writes', sub {
    my $text = join '', map { sprintf '%07d ', $_ } 1..524_288; open(my $f, '+>', 'large') or die;
    is('written', syswrite($f, $text), length $text) eq '' or return "a short write: $!"; sysseek($f, 0, SEEK_SET); my $got = '';
    while (sysread($f, $got, 4 << 20, length $got)) { } return $got eq $text ? '' : 'the content differs';
});
check('fallocate and holes', sub {
    open(my $f, '+>', 'alloc') or die; syscall(SYS_fallocate, fileno $f, 0, 0, 1 << 20) == 0 or return "fallocate: $!"; my $size = (stat $f)[7];
    syswrite($f, 'x' x 65536); syscall(SYS_fallocate, fileno $f, 3, 0, 32768) == 0 or return "punch: $!";
    sysseek($f, 0, SEEK_SET); sysread($f, my $hole, 4); return first(is('size', $size, 1 << 20), is('hole', $hole, "\0" x 4));
});
check('copy_file_range', sub {
    put('from', 'c' x 100_000); open(my $f, '<', 'from') or die; open(my $t, '>', 'copy') or die;
    my $copied = syscall(SYS_copy_file_range, fileno $f, 0, fileno $t, 0, 100_000, 0); return "copy: $!" if $copied < 0; close $t;
    return first(is('length', $copied, -s 'copy'), is('content', get('copy'), 'c' x $copied));
});
check('a program that was just written', sub {
    put('prog', "#!/bin/sh\nexit 33\n"); chmod 0755, 'prog'; system('./prog'); my $script = $? >> 8;
    system('cp', '/bin/sleep', 'sl') == 0 or return 'cp'; my $pid = fork // die; if (!$pid) { exec('./sl', '1000') or _exit(1); }
    for (1..200) { last if (readlink("/proc/$pid/exe") // '') =~ /sl$/; select(undef, undef, undef, 0.05); }
    my $busy = fails('write to a running program', open(my $f, '+<', 'sl'), ETXTBSY); kill 'KILL', $pid; waitpid($pid, 0);
    return first(is('script', $script, 33), $busy);
});
check('statfs', sub {
    my $room = "\0" x 200; my $path = '/s'; syscall(SYS_statfs, $path, $room) == 0 or return "statfs: $!"; my (undef, $block, $blocks, $free) = unpack('q4', $room);
    return $block > 0 && $blocks > 0 && $free <= $blocks ? '' : "block $block, blocks $blocks, free $free";
});
check('inode numbers', sub {
    put('i1', ''); put('i2', ''); my ($one, $two) = ((stat 'i1')[1], (stat 'i2')[1]); rename('i1', 'i3');
    return first($one == $two ? 'two files have one' : '', is('after a rename', (stat 'i3')[1], $one));
});
check('fsync', sub {
    open(my $f, '>', 'sync') or die; syswrite($f, 'x'); syscall(SYS_fsync, fileno $f) == 0 or return "file: $!";
    sysopen(my $d, '/s', O_RDONLY) or return "open: $!"; return syscall(SYS_fsync, fileno $d) == 0 ? '' : "directory: $!";
});
check('the root is the end', sub {
    my $up = '/' . '../' x 30; my @root = stat '/'; my @above = stat $up;
    return first(is('inode above the root', "$above[0]:$above[1]", "$root[0]:$root[1]"), is('a link upwards', get('/etc/up'), "of the image\n"),
        is('through /proc', get('/proc/self/root/../../etc/hostname'), "of the image\n"));
});
check('the host is out of reach', sub {
    my $f;
    return first(fails('the path of the host', open($f, '<', $outside), ENOENT), fails('a link to it', open($f, '<', '/to-the-host'), ENOENT),
        fails('above the root', open($f, '<', '/proc/self/root' . '/..' x 20 . $outside), ENOENT), fails('a hard link', link('/to-the-host/x', 'y'), ENOENT));
});
check('up from a directory that moved', sub {
    mkdir 'deep'; mkdir 'deep/er'; mkdir 'else'; my $pid = fork // die;
    if (!$pid) { chdir 'deep/er' or _exit(1); rename('/s/deep/er', '/s/else/er') or _exit(2); chdir '..' or _exit(3); my @here = stat '.'; my @want = stat '/s/else'; _exit($here[1] == $want[1] ? 0 : 4); }
    waitpid($pid, 0); return is('exit code', $? >> 8, 0);
});
