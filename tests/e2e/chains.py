"""Backups by a tool that relies only on fleecefs's metadata: an increment is applied to the backup with
its base and identity, whatever the disk's name."""


class Chains:
    def __init__(self, test):
        self.test = test
        self.kept = {}  # bytes, by restore point and identity
        self.snapshots = set()

    def back_up(self, vm, *options, series="last", commit=True):
        """Takes a backup of VM, whose disks must match their models; a full one if
        the base was saved elsewhere. Returns the description of each disk."""
        snapshot = vm.begin("--series", series, *options)
        self.test.assertNotIn(snapshot.info["snapshot"], self.snapshots)
        self.snapshots.add(snapshot.info["snapshot"])
        if any("base" in d and (d["base"], d["disk_id"]) not in self.kept
               for d in snapshot.disks.values()):
            snapshot.finish("abort")
            return self.back_up(vm, "--full", *options, series=series, commit=commit)
        made = {}
        for name, said in snapshot.disks.items():
            what = f"disk {name}, {said}"
            old = None
            if "base" in said:
                old = self.kept[said["base"], said["disk_id"]]
            else:
                self.test.assertTrue(said["reason"], what)
                self.test.assertNotIn(said["disk_id"], {i for _, i in self.kept}, what)
            data = snapshot.backup(name, old, series)
            self.test.assertTrue(data == bytes(vm.disks[name].model), what)
            if "restore_point" in said:
                key = said["restore_point"], said["disk_id"]
                self.test.assertNotIn(key, self.kept, what)
                made[key] = data
        snapshot.finish("commit" if commit else "abort")
        if commit:
            self.kept.update(made)
        self.test.assertEqual(vm.leftovers(), [])
        return snapshot.disks
