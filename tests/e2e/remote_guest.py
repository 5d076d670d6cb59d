#!/usr/bin/env python3
"""A guest on another host, through ssh: frozen briefly by its agent, and thawed whatever happens."""
import lib
import libvirt_guest
import sshd


class RemoteGuest(libvirt_guest.LibvirtGuest):
    def setUp(self):
        super().setUp()
        server, vm = sshd.shared(), self.vm
        vm.source = lambda path=None: \
            f"libvirt:{vm.name}?connect={server.uri(path or vm.libvirtd.socket)}"


if __name__ == "__main__":
    # Keeps unittest from running the base class.
    del libvirt_guest
    lib.main()
