#!/usr/bin/env python3
"""Random sequences of actions on VMs of QEMU: see world.py."""

import lib
import world
from vm import QmpError, Vm


class QmpWorld(world.World):
    def __init__(self, test, rng):
        self.names = iter(f"disk{n}" for n in range(1000))
        super().__init__(test, rng)
        self.uuid = self.new_identity()
        self.start()

    def new_name(self):
        return next(self.names)

    def start(self, *arguments):
        self.vm = Vm(self.test, self.disks, ["-uuid", self.uuid, *arguments])

    def stop(self):
        self.vm.quit()

    def rename(self):
        self.stop()
        disk = self.rng.choice(self.disks)
        disk.name, disk.style = next(self.names), self.rng.choice(("blockdev", "drive"))
        self.start()

    def move(self):
        """Moves the disks to another VM."""
        self.stop()
        self.uuid = self.new_identity()
        self.start()

    # Actions on a running VM. Each recovers first, because jobs of a killed daemon would block it.

    def root(self, disk):
        """Returns the names of the device's node and of its drive, if any."""
        for block in self.vm.qmp("query-block"):
            if f"/{disk.device}/" in block.get("qdev", ""):
                return block["inserted"]["node-name"], block["device"]
        raise AssertionError(f"{disk.device} has no node")

    def look(self, disk):
        """Updates the name of a disk, and deletes unused nodes."""
        del self.vm.disks[disk.name]
        node, device = self.root(disk)
        disk.name = node if node[0] != "#" else device or disk.device
        self.vm.disks[disk.name] = disk
        for node in self.vm.qmp("query-named-block-nodes", flat=True):
            if node["node-name"][0] != "#" and node["node-name"] not in self.vm.disks:
                try:
                    self.vm.qmp("blockdev-del", node_name=node["node-name"])
                except QmpError as error:
                    self.test.assertRegex(str(error), "in use|busy|not owned by the monitor")

    def node(self, image):
        """Returns the node of IMAGE; None if there are several."""
        found = [n["node-name"] for n in self.vm.qmp("query-named-block-nodes", flat=True)
                 if n["file"] == image and n["drv"] in ("qcow2", "raw")]
        return found[0] if len(found) == 1 else None

    def live_overlay(self):
        self.vm.recover()
        disk = self.rng.choice(self.disks)
        path, name = self.test.path("live.qcow2"), next(self.names)
        node, device = self.root(disk)
        how = self.rng.choice(("added", "named", "nameless") if device else ("added", "named"))
        self.log.append(f"{how} on {disk.name}")
        if how == "added":
            lib.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", disk.format,
                    "-b", disk.image, path, disk.size)
            self.vm.qmp("blockdev-add", driver="qcow2", node_name=name, discard="unmap",
                        backing=None,
                        file={"driver": "file", "filename": path, "discard": "unmap"})
            self.vm.qmp("blockdev-snapshot", node=node, overlay=name)
        else:
            of = {"node_name": node, "snapshot_node_name": name} if how == "named" else \
                {"device": device}
            self.vm.qmp("blockdev-snapshot-sync", snapshot_file=path, format="qcow2", **of)
        self.add_overlay(disk, path)
        self.look(disk)

    def run_job(self, command, disk, **arguments):
        """Runs block job COMMAND on DISK to its end, while the guest writes."""
        self.vm.qmp(command, job_id="job", device=self.root(disk)[0], **arguments)
        self.write()
        if command == "block-commit" and "top_node" not in arguments:
            self.vm.qmp.wait("BLOCK_JOB_READY", device="job")
            self.write()
            self.vm.qmp("block-job-complete", device="job")
        self.test.assertNotIn("error", self.vm.qmp.wait("BLOCK_JOB_COMPLETED", device="job"))

    def live_commit(self):
        """Commits the active layer into its backing image."""
        self.vm.recover()
        found = [(d, b) for d in self.overlays() if (b := self.node(self.under[d.image][0]))]
        if not found:
            return
        disk, base = self.rng.choice(found)
        self.log.append(f"of {disk.name}")
        self.run_job("block-commit", disk, base_node=base)
        self.drop_overlay(disk)
        self.look(disk)

    def live_commit_below(self):
        """Commits the layer below the active one, if that has a backing image."""
        self.vm.recover()
        found = [d for d in self.overlays() if self.under[d.image][0] in self.under]
        if not found:
            return
        disk = self.rng.choice(found)
        middle, model, size, _ = self.under[disk.image]
        image, _, old, form = self.under[middle]
        top, base = self.node(middle), self.node(image)
        if size != old or self.is_used(image, middle) or not top or not base:
            return
        self.log.append(f"of {disk.name}")
        self.run_job("block-commit", disk, top_node=top, base_node=base)
        del self.under[middle]
        self.under[disk.image] = (image, model, size, form)
        self.kept = [k for k in self.kept if k[2] not in (disk.image, middle, image)]
        self.look(disk)

    def live_pull(self):
        """Pulls all images below the active layer into it, or only the next one."""
        self.vm.recover()
        found = [d for d in self.disks if d.image in self.under]
        if not found:
            return
        disk = self.rng.choice(found)
        self.log.append(f"of {disk.name}")
        middle = self.under[disk.image][0]
        base = self.node(self.under[middle][0]) if middle in self.under else None
        if base and self.rng.randrange(2):
            self.run_job("block-stream", disk, base_node=base)
            self.pulled(disk, middle)
        else:
            self.run_job("block-stream", disk)
            self.pulled(disk, None)
        self.look(disk)

    def set_live_size(self, disk, size):
        self.vm.qmp("block_resize", node_name=self.root(disk)[0], size=size)

    def migrate(self):
        source = self.vm
        self.start("-incoming", "defer")
        source.migrate(self.vm)
        source.quit()

    def kill(self):
        for name in self.vm.disks:
            self.vm.io(name, "flush")
        self.vm.kill()
        self.start()

    def jump(self):
        """Renames restore points, as if the clock had been wrong at the last backup."""
        for node, names in self.vm.points().items():
            if node not in self.vm.disks:
                continue
            for name in names:
                if self.vm.bitmaps()[node, name].get("inconsistent"):
                    continue
                old = name.rpartition(".")[2]
                new = self.rng.choice(("19700102", "20200101", "20991231")) + old[8:]
                other = "fleecefs.last." + new
                if other == name:
                    continue
                self.vm.qmp("transaction", actions=[
                    {"type": "block-dirty-bitmap-add",
                     "data": {"node": node, "name": other, "persistent":
                              self.vm.bitmaps()[node, name].get("persistent", False)}},
                    {"type": "block-dirty-bitmap-merge",
                     "data": {"node": node, "target": other, "bitmaps": [name]}},
                    {"type": "block-dirty-bitmap-remove", "data": {"node": node, "name": name}}])
                # Only the next backup of the series would remove it.
                check = name.replace("fleecefs.", "fleecefs-check.", 1)
                if (node, check) in self.vm.bitmaps():
                    self.vm.qmp("block-dirty-bitmap-remove", node=node, name=check)
                for chains in self.destinations:
                    for point, disk in list(chains.kept):
                        if point == old:
                            chains.kept[new, disk] = chains.kept[point, disk]

    def actions(self):
        return [*super().actions(), self.rename, self.move, self.live_overlay, self.live_overlay,
                self.live_commit, self.live_commit_below, self.live_pull, self.live_resize,
                self.migrate, self.kill, self.jump]


class QmpProperty(world.Property):
    kind = QmpWorld


if __name__ == "__main__":
    lib.main()
