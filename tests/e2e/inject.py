"""Makes system calls in another process with ptrace(2), to test what its sandbox permits.
x86-64 only."""
import ctypes
import errno
import os
import platform
import signal

import lib

ATTACH, DETACH, SINGLESTEP, GETREGS, SETREGS = 16, 17, 9, 12, 13
REGISTERS = ("r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss "
             "fs_base gs_base ds es fs gs").split()
SYSCALL = b"\x0f\x05"
NUMBERS = {"read": 0, "write": 1, "open": 2, "close": 3, "socket": 41, "connect": 42, "clone": 56, "execve": 59, "kill": 62,
           "chmod": 90, "chown": 92, "umount2": 166, "unlink": 87}


class Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in REGISTERS]


class Inside:
    """Context manager: holds the main thread of process PID, which waits in a system call."""

    def __init__(self, pid):
        if platform.machine() != "x86_64":
            raise lib.unittest.SkipTest("x86-64 only")
        self.pid = pid

    def ptrace(self, request, data=None):
        ctypes.set_errno(0)
        if lib.libc.ptrace(request, self.pid, None, data) < 0:
            raise OSError(ctypes.get_errno(), "ptrace")

    def stopped(self):
        _, status = os.waitpid(self.pid, 0x40000000)  # __WALL
        if not os.WIFSTOPPED(status):
            raise AssertionError(f"process {self.pid} has ended: status {status}")
        return os.WSTOPSIG(status)

    def __enter__(self):
        lib.libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
        lib.libc.ptrace.restype = ctypes.c_long
        self.ptrace(ATTACH)
        self.stopped()
        self.saved = Registers()
        self.ptrace(GETREGS, ctypes.byref(self.saved))
        self.memory = open(f"/proc/{self.pid}/mem", "r+b", buffering=0)
        return self

    def __exit__(self, *_):
        self.memory.close()
        self.ptrace(SETREGS, ctypes.byref(self.saved))
        self.ptrace(DETACH)

    def call(self, name, *args):
        """Returns the result of a system call: at least 0, or the negative errno. Arguments of type
        bytes are passed by address."""
        used = Registers.from_buffer_copy(self.saved)
        used.rip -= len(SYSCALL)
        self.memory.seek(used.rip)
        assert self.memory.read(len(SYSCALL)) == SYSCALL, "the process does not wait in a system call"
        # Below the stack's red zone.
        buffer = used.rsp - 1024
        values = []
        # The call may write to these buffers.
        self.addresses = []
        for arg in args:
            if isinstance(arg, bytes):
                buffer -= len(arg) + 16
                self.memory.seek(buffer)
                self.memory.write(arg)
                values.append(buffer)
                self.addresses.append(buffer)
            else:
                values.append(arg)
        used.rax, used.orig_rax = NUMBERS[name], ctypes.c_ulonglong(-1).value
        for register, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), values):
            setattr(used, register, ctypes.c_ulonglong(value).value)
        self.ptrace(SETREGS, ctypes.byref(used))
        while True:
            self.ptrace(SINGLESTEP)
            if self.stopped() == signal.SIGTRAP:
                break
        self.ptrace(GETREGS, ctypes.byref(used))
        return ctypes.c_longlong(used.rax).value

    def read(self, fd, length):
        """The bytes that one read(2) of FD returns."""
        result = self.call("read", fd, bytes(length), length)
        assert result >= 0, f"read: {errno.errorcode[-result]}"
        self.memory.seek(self.addresses[0])
        return self.memory.read(result) if result > 0 else b""

    def may(self, name, *args):
        """Returns whether the call succeeds; asserts that a failure is a denial by the sandbox."""
        result = self.call(name, *args)
        if result < 0:
            assert -result in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOENT,
                               errno.EROFS, errno.EAFNOSUPPORT), f"{name}: {errno.errorcode[-result]}"
        return result >= 0
