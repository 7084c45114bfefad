#!/bin/sh
# The one description of the student's machine. Vagrant, Lima, cloud-init, the development container
# and `labrun vm` all start this, and so can you, on any Debian or Ubuntu:
#
#   provision.sh [--peers] [--user NAME] CHECKOUT
#
# It works in a chroot too, where no systemd runs. A second run changes nothing: what is right is left
# alone, and what a killed run left half-made is mended.

VENV=/opt/labrun/venv
COMMANDS=/usr/local/bin
MOTD=/etc/motd.d/labrun
DELEGATION=/etc/systemd/system/user@.service.d/labrun.conf
POLICY=/usr/sbin/policy-rc.d # asked before a package's service is started; 101 forbids it
UNITS=/opt/labrun/units      # those enabled before an installation that has not ended yet
MARK='Made by labs/vm/provision.sh'

# What labrun starts, and what its lessons have a student type.
BASE='python3 python3-venv iproute2 nftables libseccomp2 procps hostname util-linux ca-certificates sudo tmux less'
# Stage 4's drivers: devicemapper starts these, and aufs is a file system in user space.
DRIVERS='dmsetup kmod e2fsprogs fuse3'
# The real runtimes, and what they need to run a container: apt is not asked for all it recommends.
PEERS='bubblewrap runc crun docker.io podman'
HELPERS='apparmor dbus iptables netavark aardvark-dns passt uidmap fuse-overlayfs'

say() { printf 'labrun: %s\n' "$*"; }

refuse() {
    status=$1
    shift
    printf 'labrun: %s\n' "$*" >&2
    exit "$status"
}

usage() {
    [ $# = 0 ] || printf 'labrun: %s\n' "$*" >&2
    echo "Usage: ${0##*/} [--peers] [--user NAME] CHECKOUT"
    echo "Make this Debian or Ubuntu a student's machine: labrun and its stages, on everybody's PATH."
    echo "  --peers      the real runtimes too: $PEERS"
    echo "  --user NAME  who will use it (else the owner of CHECKOUT, or whoever typed sudo)"
}

# ---- what is asked for --------------------------------------------------------------------------

read_arguments() {
    peers='' student='' checkout=''
    while [ $# != 0 ]; do
        case $1 in
        -h | --help) usage && exit 0 ;;
        --peers) peers=yes ;;
        --user)
            [ $# -gt 1 ] || bad "--user wants a name"
            student=$2
            shift
            ;;
        --user=*) student=${1#*=} ;;
        --)
            shift
            break
            ;;
        -*) bad "no such option: $1" ;;
        *) break ;;
        esac
        shift
    done
    [ $# = 1 ] || bad "one CHECKOUT is wanted, $# were given"
    checkout=$(CDPATH='' cd -- "$1" 2>/dev/null && pwd -P) || bad "$1 is not a folder that opens"
    [ -f "$checkout/labrun" ] && [ -f "$checkout/requirements.lock" ] ||
        bad "$checkout is no checkout of labrun: it has no ./labrun"
}

bad() {
    usage "$@" >&2
    exit 2
}

look_around() {
    [ "$(id -u)" = 0 ] || refuse 3 "provisioning: it installs packages, so it needs root:" \
        "sudo $0 $checkout"
    for program in apt-get dpkg-query; do
        command -v "$program" >/dev/null || refuse 3 "provisioning: there is no $program here:" \
            "it takes Debian 12, Ubuntu 24.04, or later"
    done
    umask 022
    changed=''
    log=$(mktemp) || refuse 3 "provisioning: no temporary file can be made: see above"
    trap tidy EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'exit 129' HUP
    if [ -n "$student" ]; then
        getent passwd "$student" >/dev/null || refuse 2 "--user $student: nobody here has that name:" \
            "adduser $student makes that user"
    else
        student=$(find_student)
    fi
}

tidy() {
    rm -f -- "$log"
    allow_services
}

# Print who will use the machine: never root, unless there is nobody else.
find_student() {
    owner=$(stat -c %U -- "$checkout")
    case $owner in root | UNKNOWN) ;; *) echo "$owner" && return ;; esac
    if [ -n "$SUDO_USER" ] && [ "$SUDO_USER" != root ]; then echo "$SUDO_USER" && return; fi
    # The users whom adduser made, vagrant before all others. See adduser.conf(5).
    getent passwd | awk -F: '
        $1 == "vagrant" { name = $1; exit }
        $3 >= 1000 && $3 < 60000 && name == "" { name = $1 }
        END { print (name == "" ? "root" : name) }'
}

# ---- packages -----------------------------------------------------------------------------------

# Print those packages that are not installed, or only half.
missing() {
    for package; do
        state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)
        if [ "$state" != installed ]; then printf '%s ' "$package"; fi
    done
}

# --no-remove: nothing that this machine has (another Docker, another busybox) makes room for ours.
apt() {
    env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get -q -y -o DPkg::Lock::Timeout=300 \
        -o Dpkg::Options::=--force-confold --no-remove "$@" >>"$log" 2>&1 </dev/null
}

# A dpkg that was killed has to end first what it began.
mend() {
    env DEBIAN_FRONTEND=noninteractive dpkg --force-confold --configure -a >>"$log" 2>&1 </dev/null
}

# install PACKAGE...: those that are missing; the package lists may be missing too, or old.
install() {
    lacking=$(missing "$@")
    [ -n "$lacking" ] || return 0
    say "packages: installing ${lacking% }"
    changed=yes
    forbid_services
    # shellcheck disable=SC2086 # words, on purpose
    apt install --no-install-recommends $lacking && return
    # An update that reached nobody is no error to apt, but it is why a package isn't found.
    mend && : >"$log" && apt update
    # shellcheck disable=SC2086
    apt install --no-install-recommends $lacking && return
    why=$(sed -n -e 's/^[EW]: \(Failed to fetch.*\)/\1/p' "$log" | head -n 1)
    why=${why:-$(sed -n 's/^E: //p' "$log" | tail -n 1)}
    refuse 3 "packages: ${why:-apt-get failed}: mend that (apt-get install ${lacking% } says more)" \
        "and run this again"
}

packages() {
    # shellcheck disable=SC2086 # words, on purpose
    install $BASE $DRIVERS
    # The lessons' busybox is static. It can't stand beside the other package of that name: there,
    # labrun unpacks one into its cache.
    if [ -n "$(missing busybox)" ]; then install busybox-static; fi
    if [ -n "$peers" ]; then
        # shellcheck disable=SC2086
        install $PEERS $HELPERS
        # In Debian 13 the client is a package of its own, in Debian 12 there is none.
        if [ ! -x /usr/bin/docker ]; then install docker-cli; fi
    fi
    disable_services
    [ -n "$changed" ] || say "packages: all there"
}

# Neither now nor at the next boot does anything start that came with a package of ours.
forbid_services() {
    if [ ! -e "$UNITS" ]; then
        { mkdir -p -- "${UNITS%/*}" && enabled >"$UNITS.new" && mv -f -- "$UNITS.new" "$UNITS"; } ||
            refuse 3 "packages: cannot write $UNITS: see above"
    fi
    # Somebody's own policy stays, and decides.
    if [ ! -e "$POLICY" ]; then
        { printf '#!/bin/sh\n# %s, while it installs\nexit 101\n' "$MARK" >"$POLICY" &&
            chmod 755 "$POLICY"; } || refuse 3 "packages: cannot write $POLICY: see above"
    fi
}

allow_services() {
    if grep -qs "$MARK" "$POLICY"; then rm -f -- "$POLICY"; fi
}

enabled() { find /etc/systemd/system -type l -path '*.wants/*' 2>/dev/null | sort; }

disable_services() {
    [ -e "$UNITS" ] || return 0
    # shellcheck disable=SC2086
    dpkg-query -L $PEERS $HELPERS containerd 2>/dev/null | sed -n 's,.*/systemd/system/,/,p' >"$log"
    for link in $(enabled | comm -13 "$UNITS" -); do
        if grep -qxF "/${link##*/}" "$log"; then rm -f -- "$link"; fi
    done
    if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
    allow_services
    rm -f -- "$UNITS"
}

# ---- what labrun needs --------------------------------------------------------------------------

# The launcher makes it, as the checkout's owner, and makes it again when the checkout asks for it.
environment() {
    before=$(stat -c %i,%Y "$VENV/.labrun/ready" 2>/dev/null)
    env -u LABRUN_CACHE LABRUN_VENV="$VENV" "$checkout/labrun" --help >"$log" </dev/null || exit
    if [ "$before" = "$(stat -c %i,%Y "$VENV/.labrun/ready")" ]; then
        say "environment: up to date in $VENV"
    else
        say "environment: made in $VENV"
        changed=yes
    fi
}

# put FILE MODE: what stands in the log becomes the file, whole or not at all.
put() {
    if [ -f "$1" ] && [ ! -L "$1" ] && cmp -s "$log" "$1"; then return; fi
    { mkdir -p -- "${1%/*}" && cat "$log" >"$1.new" && chmod "$2" "$1.new" &&
        mv -fT -- "$1.new" "$1"; } ||
        refuse 3 "cannot write $1: see above"
    written=yes changed=yes
}

# Whoever types labrun or a stage, by ssh, with sudo, or in a script, means those of the checkout.
# A profile would be read by login shells alone. So: a command, and a name of it for each stage.
commands() {
    written=''
    for name in labrun stage1 stage2 stage3 stage4 stage5; do
        file=$COMMANDS/$name
        if { [ -e "$file" ] || [ -L "$file" ]; } && ! grep -qs "$MARK" "$file"; then
            refuse 3 "commands: $file is somebody else's: move it away and run this again"
        fi
    done
    {
        printf '#!/bin/sh\n# %s\n' "$MARK"
        printf "checkout='%s'\n" "$(printf '%s' "$checkout" | sed "s/'/'\\\\''/g")"
        # shellcheck disable=SC2016 # it is the command's shell that expands
        printf 'venv=${LABRUN_VENV:-%s}\n' "$VENV"
        cat <<'END'
name=${0##*/}
if [ ! -f "$checkout/labrun" ]; then
    echo "$name: the checkout was in $checkout, and is not there: mount it, or provision again" >&2
    exit 3
fi
launcher() {
    export LABRUN_VENV="$venv"
    exec "$checkout/labrun" "$@"
}
if [ "$name" = labrun ]; then launcher "$@"; fi
starter=$venv/bin/$name
if [ ! -x "$starter" ]; then
    # A stage that came with a later checkout: the launcher writes its command.
    for cli in "$checkout/stages/${name}_"*/cli.py; do
        if [ -f "$cli" ]; then (launcher --help >/dev/null) || exit; fi
    done
fi
if [ ! -x "$starter" ]; then
    echo "$name: this checkout has no such stage yet: labrun shows those that it has" >&2
    exit 127
fi
exec "$starter" "$@"
END
    } >"$log"
    put "$COMMANDS/labrun" 755
    for name in stage1 stage2 stage3 stage4 stage5; do
        file=$COMMANDS/$name
        if [ "$(readlink -- "$file")" != labrun ]; then
            { ln -sfn -- labrun "$file.new" && mv -fT -- "$file.new" "$file"; } ||
                refuse 3 "commands: cannot make $file: see above"
            written=yes changed=yes
        fi
    done
    report commands "labrun, stage1 to stage5 in $COMMANDS"
}

report() {
    if [ -n "$written" ]; then say "$1: $2"; else say "$1: all there"; fi
}

# Stage 3 as an ordinary user: systemd gives a user's own part of the control groups some
# controllers (memory and pids everywhere), and this asks for the others. See user@.service(5).
delegation() {
    written=''
    printf '# %s\n[Service]\nDelegate=cpu cpuset io memory pids\n' "$MARK" >"$log"
    put "$DELEGATION" 644
    if [ -n "$written" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
    report delegation "$DELEGATION, from the next login on"
}

# Shown by pam_motd(8), once, to whoever logs in.
message() {
    written=''
    cat >"$log" <<'END'

  labrun: from chroot to a container, in five stages that you can measure
  从 chroot 到容器，分五个阶段，每一步都能亲手测量

    labrun           where you are, and what comes next    走到哪了，下一步做什么
    labrun stage1    the first lesson                      第一课
    labrun doctor    what this machine can do              这台机器能做什么

  中文界面：labrun stage1 --lang zh，或者先执行 export LANG=zh_CN.UTF-8

END
    put "$MOTD" 644
    report "message of the day" "$MOTD"
}

# as NAME COMMAND...: as that user, at home, as after a login.
as() {
    name=$1
    shift
    (
        cd / && exec setpriv --reuid="$name" --regid="$(id -g "$name")" --init-groups -- \
            env -u XDG_CACHE_HOME -u SUDO_UID -u LABRUN_VENV -u LABRUN_CACHE USER="$name" \
            LOGNAME="$name" HOME="$(getent passwd "$name" | cut -d: -f6)" \
            PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
    )
}

# The first lesson need not make it. Root has one, which no user can change; the student's own is
# for what needs no root.
rootfs() {
    if [ ! -e /proc/self/mountinfo ]; then
        say "root file system: there is no /proc here, so the first lesson makes it"
        return
    fi
    for name in root $([ "$student" = root ] || echo "$student"); do
        made=$(as "$name" "$VENV/bin/python" -IBc '
import sys
from labs import paths, rootfs
from labs.errors import Refused

def there():
    return {(str(path), path.stat().st_ino) for path in (paths.cache() / "rootfs").glob("busybox-*")}

before = there()
try:
    made = str(rootfs.default())
except Refused as no:
    sys.exit(f"labrun: {no}")
print(made if there() - before else "")
' 2>"$log") || refuse 3 "root file system for $name: $(tail -n 1 "$log")"
        if [ -n "$made" ]; then
            say "root file system for $name: made in $made"
            changed=yes
        else
            say "root file system for $name: there"
        fi
    done
}

# The last word: the student's own shell finds it all, and may read it.
try_out() {
    for name in labrun $(cd "$VENV/bin" && echo stage[0-9]); do
        as "$student" "$COMMANDS/$name" --help >"$log" 2>&1 || refuse 3 "$student cannot start $name:" \
            "$(tail -n 1 "$log"): open $checkout to $student and run this again"
    done
}

read_arguments "$@"
look_around
packages
environment
commands
delegation
message
rootfs
try_out
if [ -n "$changed" ]; then
    say "$student can log in now and type: labrun"
else
    say "nothing had to be changed"
fi
