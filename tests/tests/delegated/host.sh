#!/bin/sh
# What the host of the test does, as the first process of a guest: an ordinary system with a delegated cgroup, and a person on it.
# What the test looks at stands between lines of `<<NAME` and `>>`.
if ! test -e /new-root-is-here; then
    export PATH=/usr/bin
    mount -t proc proc /proc
    # A sandbox cannot be made in the first file system: nobody can leave it.
    mount -t tmpfs -o size=500m,mode=755 tmpfs /new
    cp -a /bin /lib /lib64 /usr /etc /init /new/
    cd /new && mkdir -p proc sys dev tmp run work home/me && touch new-root-is-here
    exec switch_root /new /init
fi

export PATH=/usr/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t cgroup2 none /sys/fs/cgroup
cd /sys/fs/cgroup
echo "+memory +cpu +pids" >cgroup.subtree_control
mkdir me
echo "+memory +cpu +pids" >me/cgroup.subtree_control
mkdir me/shell
chown 1000 me me/cgroup.procs me/cgroup.subtree_control me/shell me/shell/*
chown -R 1000 /home/me /work
echo $$ >me/shell/cgroup.procs
ifconfig lo up

cat >/tmp/person <<'PERSON'
export HOME=/home/me XDG_DATA_HOME=/home/me/data
cd /work
wait_for_exit() {
    n=0
    while test $n -lt 30; do
        agent-shim status "$1" --json >/tmp/status
        if ! grep -q '"last_exit": null' /tmp/status && ! grep -q '"resources": null' /tmp/status; then break; fi
        sleep 1
        n=$((n + 1))
    done
    cat /tmp/status
}
begin() {
    name=$1 && shift
    agent-shim start --name "$name" --env host --isolation bwrap --workspace bind --memory 120M --cpus 1.5 --pids 50 \
        --restart never . -- sh -c "until test -e /tmp/go; do sleep 0.1; done; exec $*"
}
echo "<<started"
begin family probe family 70 2
cat /sys/fs/cgroup/me/*.scope/memory.max /sys/fs/cgroup/me/*.scope/pids.max
echo ">>"
echo "<<child"
agent-shim exec family -- touch /tmp/go
wait_for_exit family
echo ">>"
echo "<<command"
agent-shim exec family -- probe eat 4096
echo "code $?"
agent-shim events family
echo ">>"
agent-shim stop family
begin glutton probe eat 4096
echo "<<agent"
agent-shim exec glutton -- touch /tmp/go
wait_for_exit glutton
echo ">>"
agent-shim stop glutton
echo "<<left"
ls -d /sys/fs/cgroup/me/*/
echo ">>"
PERSON
su me -s /bin/sh -c ". /tmp/person"
sync
reboot -f
