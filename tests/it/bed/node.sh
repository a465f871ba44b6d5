# Runs containerd and the kubelet of one test node until either ends.
#
# Usage: sh node.sh FOLDER BIN HOST_ADDRESS, as root, in its own mount and process namespaces: when this shell is killed,
# the kernel ends all processes of the node, its Pods included, and removes its mounts. FOLDER/cleanup.sh, which the
# watchdog runs, undoes effects that outlive namespaces (control groups, an address, a setting).
set -eu
folder=$1
bin=$2
address=$3
name=$(basename "$folder")

# Written before anything is changed.
forwarding=$(cat /proc/sys/net/ipv4/ip_forward)
cat >"$folder/cleanup.sh" <<END
ip address del $address/32 dev lo 2>/dev/null
echo $forwarding >/proc/sys/net/ipv4/ip_forward
find /sys/fs/cgroup -depth -type d -path '*/$name*' 2>/dev/null | while read -r group; do
	tries=0
	# Killed processes leave their group with a delay.
	until rmdir "\$group" 2>/dev/null || [ \$tries -ge 50 ]; do
		tries=\$((tries + 1))
		sleep 0.1
	done
done
END

# Fixed paths of programs: empty, and removed with this namespace.
for place in /run /var/lib /var/log; do mount -t tmpfs tmpfs "$place"; done

ip address add "$address/32" dev lo

# Control group of this node, for those of its Pods.
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
	for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
		echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
	done
	mkdir -p "/sys/fs/cgroup/$name"
else
	for hierarchy in /sys/fs/cgroup/*/; do
		[ -L "${hierarchy%/}" ] || mkdir -p "$hierarchy$name" 2>/dev/null || true
	done
	for file in cpuset.cpus cpuset.mems; do
		set="/sys/fs/cgroup/cpuset"
		[ ! -f "$set/$file" ] || cat "$set/$file" >"$set/$name/$file" 2>/dev/null || true
	done
fi

PATH="$bin:$PATH"
export PATH
containerd --config "$folder/containerd.toml" >"$folder/containerd.log" 2>&1 &
containerd=$!
tries=0
until ctr --address "$folder/containerd.sock" version >/dev/null 2>&1; do
	tries=$((tries + 1))
	if [ $tries -gt 600 ] || ! kill -0 "$containerd" 2>/dev/null; then
		tail -n 20 "$folder/containerd.log"
		exit 1
	fi
	sleep 0.1
done
ctr --address "$folder/containerd.sock" --namespace k8s.io images import --local --snapshotter native "$folder/pause.tar"

kubelet --config "$folder/kubelet.json" --kubeconfig "$folder/kubelet.kubeconfig" --root-dir "$folder/kubelet" \
	--cert-dir "$folder/kubelet-certificates" --hostname-override localhost >"$folder/kubelet.log" 2>&1 &
kubelet=$!
while kill -0 "$containerd" 2>/dev/null && kill -0 "$kubelet" 2>/dev/null; do
	# This shell is the init process of its namespace and must reap orphans.
	sleep 1
done
tail -n 20 "$folder/containerd.log" "$folder/kubelet.log"
exit 1
