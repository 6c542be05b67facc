# shellcheck shell=bash
# The cached half of the lab, sourced by `lab`: Debian's cloud kernel, an initramfs that finds the root disk, and a
# Debian root disk. Reads cache, here, packages, rebuild; sets kernel, initramfs, root_disk. Everything is keyed by
# its inputs, built under a lock, and put in its place only when whole.
# Always in the root: what the lab needs itself, then what the tests compare crx with or look at it with.
# shellcheck disable=SC2154 # set by lab
lab_packages='busybox-static kmod procps iproute2 util-linux time jq strace runc crun python3-minimal
  podman buildah netavark catatonit containernetworking-plugins passt iputils-ping iperf3 wrk containerd'

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9

# Prints how long a slow step took: step WORDS -- COMMAND
step() {
  local words='' t=$SECONDS
  while [[ $1 != -- ]]; do words+="$1 "; shift; done
  shift
  say "$words..."
  "$@"
  say "$words: $((SECONDS - t)) s"
}

fetch_kernel() {
  local package dir
  package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
    sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
  if [[ -z $package ]]; then
    apt-get update >"$cache/apt.log" 2>&1 || die "apt-get update failed: $cache/apt.log"
    package=$(apt-cache depends linux-image-cloud-amd64 |
      sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
  fi
  [[ -n $package ]] || die "apt knows no linux-image-cloud-amd64"
  dir=$cache/kernel.new
  rm -rf "$dir" "$cache/kernel"
  mkdir -p "$dir"
  (cd "$dir" && apt-get download "$package" >"$cache/apt.log" 2>&1) || die "cannot download $package: $cache/apt.log"
  dpkg-deb -x "$dir/$package"_*.deb "$dir"
  rm -rf "$dir/$package"_*.deb "${dir:?}/usr"
  depmod -b "$dir" "${package#linux-image-}"
  echo "${package#linux-image-}" >"$dir/version"
  mv "$dir" "$cache/kernel"
}

build_initramfs() {
  local dir order ko
  dir=$(mktemp -d -p "$cache")
  mkdir -p "$dir"/{bin,mod,proc,sys,dev,root}
  cp "$(command -v busybox)" "$dir/bin/busybox"
  order=$(for m in virtio_pci virtio_blk; do
    modprobe -d "$cache/kernel" -S "$kernel_version" --show-depends "$m"
  done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }')
  for ko in $order; do
    cp "$ko" "$dir/mod/"
    basename "$ko" >>"$dir/mod/order"
  done
  install -m 755 "$here/initramfs-init" "$dir/init"
  (cd "$dir" && find . | cpio -o -H newc --quiet | gzip -1) >"$initramfs.new"
  mv "$initramfs.new" "$initramfs"
  rm -rf "$dir"
}

build_tree() {
  rm -rf "$tree" "$tree.new"
  debootstrap --variant=minbase --include="${wanted//$'\n'/,}" bookworm "$tree.new" \
    >"$cache/debootstrap.log" 2>&1 || die "debootstrap failed: $cache/debootstrap.log"
  rm -rf "$tree.new"/var/cache/apt/archives/*.deb "$tree.new"/var/lib/apt/lists/* "$tree.new"/usr/share/{doc,man,locale}/*
  mv "$tree.new" "$tree"
}

build_root_disk() {
  local dir size_mib
  dir=$(mktemp -d -p "$cache")
  cp -a "$tree/." "$dir/"
  mkdir -p "$dir"/{proc,sys,dev,run,tmp,lab} "$dir/lib/modules"
  cp -a "$cache/kernel/lib/modules/$kernel_version" "$dir/lib/modules/"
  install -m 755 "$here/init" "$dir/sbin/lab-init"
  rm -f "$dir/etc/resolv.conf"
  echo lab >"$dir/etc/hostname"
  echo '127.0.0.1 localhost lab' >"$dir/etc/hosts"
  size_mib=$(($(du -sm "$dir" | cut -f1) * 12 / 10 + 256))
  rm -f "$root_disk.new"
  truncate -s "${size_mib}M" "$root_disk.new"
  mkfs.ext4 -q -F -O ^has_journal -E lazy_itable_init=0 -d "$dir" "$root_disk.new" || die "mkfs.ext4 of the root disk failed"
  mv "$root_disk.new" "$root_disk"
  rm -rf "$dir"
}

[[ $rebuild = 0 && -e $cache/kernel/version ]] || step "fetching Debian's cloud kernel" -- fetch_kernel
kernel_version=$(cat "$cache/kernel/version")
# shellcheck disable=SC2034 # read by lab
kernel=$cache/kernel/boot/vmlinuz-$kernel_version
key=$(cat "$here/initramfs-init" "$here/init" "$here/cache.sh" | sha256sum | cut -c1-12)

initramfs=$cache/initramfs-$kernel_version-$key.gz
[[ $rebuild = 0 && -e $initramfs ]] || build_initramfs

wanted=$(tr ' ' '\n' <<<"$lab_packages $packages" | grep . | sort -u)
tree=$cache/tree-$(sha256sum <<<"$wanted" | cut -c1-12)
root_disk=$cache/root-$(basename "$tree")-$kernel_version-$key.img
if [[ $rebuild = 1 || ! -e $root_disk ]]; then
  rm -f "$cache/root-$(basename "$tree")-"*.img # of an older kernel or init
  [[ $rebuild = 0 && -e $tree ]] || step "making a Debian root (one to two minutes)" -- build_tree
  step "making the root disk" -- build_root_disk
fi
flock -u 9
exec 9>&-
