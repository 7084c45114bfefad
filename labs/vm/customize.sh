#!/bin/sh
# What `labrun vm` adds to the distribution's packages, before the machine's first start.
#
#   customize.sh TREE CHECKOUT KERNEL
#
# mmdebstrap calls it when TREE is unpacked, in a mount namespace in which TREE has its /proc, /sys and
# /dev. CHECKOUT is the folder to copy, KERNEL the tree of another distribution's kernel.
set -eu
tree=$1 checkout=$2 kernel=$3

# ---- a machine -------------------------------------------------------------------------------------
echo labrun >"$tree/etc/hostname"
printf '127.0.0.1 localhost labrun\n::1 localhost labrun\n' >"$tree/etc/hosts"
printf '/dev/vda / ext4 defaults 0 1\n' >"$tree/etc/fstab"
cat >"$tree/etc/systemd/network/80-labrun.network" <<'END'
# QEMU's own network: see "User Mode Network" in its manual.
[Match]
Name=e*
[Network]
DHCP=yes
END
# What answers names there; mmdebstrap takes its own copy of the file away when it is done.
echo 'f+ /etc/resolv.conf 0644 root root - nameserver 10.0.2.3' >"$tree/etc/tmpfiles.d/labrun.conf"
chroot "$tree" systemctl --quiet enable systemd-networkd ssh
# Nothing wakes up by itself: what a student measures is what the student does.
chroot "$tree" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
    dpkg-db-backup.timer systemd-networkd-wait-online.service
# Under emulation the unpacking of all drivers takes longer than everything else at the start.
echo 'MODULES=list' >"$tree/etc/initramfs-tools/conf.d/labrun"
printf 'virtio_pci\nvirtio_blk\next4\n' >>"$tree/etc/initramfs-tools/modules"
for modules in "$kernel"/lib/modules/*; do
    release=${modules##*/}
    cp -a "$kernel"/boot/*"-$release" "$tree/boot/"
    cp -a "$modules" "$tree/usr/lib/modules/"
    chroot "$tree" depmod "$release"
    chroot "$tree" update-initramfs -c -k "$release"
done
chroot "$tree" update-initramfs -u -k all

# ---- a student -------------------------------------------------------------------------------------
chroot "$tree" useradd --create-home --shell /bin/bash student
# The runtimes and the checkout are tried as other users, too.
chmod 755 "$tree/home/student"
echo 'student ALL=(ALL) NOPASSWD: ALL' >"$tree/etc/sudoers.d/student"
cp -a "$checkout" "$tree/home/student/labrun"
chroot "$tree" chown -R student:student /home/student/labrun
# Whom the maker's machine trusts is trusted as long as packages are fetched, and no longer.
trusted=$tree/etc/ssl/certs/ca-certificates.crt
ours=${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}
unset PIP_FIND_LINKS REQUESTS_CA_BUNDLE CURL_CA_BUNDLE SSL_CERT_FILE SSL_CERT_DIR
export PIP_CERT=/etc/ssl/certs/ca-certificates.crt
mv -- "$trusted" "$trusted.theirs"
cp -- "$ours" "$trusted"
chroot "$tree" /home/student/labrun/labs/vm/provision.sh --peers --user student /home/student/labrun
# The tests' tools too: in the machine, `labrun test` finds no network that it could rely on.
chroot "$tree" runuser -u student -- env -C /home/student/labrun HOME=/home/student \
    /opt/labrun/venv/bin/python -c 'from labs import tools; tools.install("dev")'
mv -- "$trusted.theirs" "$trusted"
