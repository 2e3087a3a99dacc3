# Sourced by scripts that build a root in namespaces of their own.
# fresh_dev ROOT: a /dev with nothing of the host's but the harmless nodes; ROOT/dev exists.
fresh_dev() {
    local dev=$1/dev node
    mount -t tmpfs -o mode=755,nosuid dev "$dev"
    for node in null zero full random urandom tty; do
        : >"$dev/$node"
        mount --bind "/dev/$node" "$dev/$node"
    done
    mkdir "$dev/shm" "$dev/pts"
    mount -t tmpfs -o mode=1777,nosuid,nodev shm "$dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$dev/pts"
    ln -s pts/ptmx "$dev/ptmx"
    ln -s /proc/self/fd "$dev/fd"
    ln -s fd/0 "$dev/stdin"
    ln -s fd/1 "$dev/stdout"
    ln -s fd/2 "$dev/stderr"
}
