"""A small NBD server inside the test program, for behaviour that real servers cannot be made to show.

It records every request; a test can make it refuse, lie, stall or disconnect. Protocol:
https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md; structured replies, extended headers
on request, no TLS.
"""
import contextlib
import dataclasses
import errno
import os
import socket
import struct
import threading
import typing

READ, DISCONNECT, BLOCK_STATUS = 0, 2, 7
DIRTY = "qemu:dirty-bitmap:"

_OPT_EXPORT_NAME, _OPT_ABORT, _OPT_LIST, _OPT_INFO, _OPT_GO = 1, 2, 3, 6, 7
_OPT_STRUCTURED_REPLY, _OPT_LIST_META, _OPT_SET_META, _OPT_EXTENDED_HEADERS = 8, 9, 10, 11
# Kinds of replies.
_SIMPLE, _STRUCTURED, _EXTENDED = range(3)
_REP_ACK, _REP_SERVER, _REP_INFO, _REP_META = 1, 2, 3, 4
_REP_ERR_UNSUP, _REP_ERR_INVALID, _REP_ERR_UNKNOWN = 0x80000001, 0x80000003, 0x80000006
# NBD_FLAG_HAS_FLAGS, READ_ONLY, CAN_MULTI_CONN
_EXPORT_FLAGS = 1 | 2 | 256


class HangUp(Exception):
    """Raised by a hook: the connection ends without a reply."""


@dataclasses.dataclass
class Export:
    """A disk. `data` is its bytes, or a function (offset, length) -> bytes. `contexts` maps the
    name of a meta context to extents [(start, end, type)] that cover the disk.

    `blocks`: the minimum, preferred and maximum block size to advertise. `listed`: the contexts to
    list, if they differ from `contexts`, with or without duplicates. `status_ids`: numbers of the
    contexts (from 1, as negotiated) that a block status reply contains, in this order.

    Hooks, called in the connection's thread before a request is answered:
    `on_read(offset, length)` may raise OSError, which the client gets as an error, or HangUp, or
    return the chunks [(type, payload)] of a structured reply to send instead of the correct one;
    `on_status(context, offset, length)` likewise, or return the descriptors
    [(length, type)] to send instead of the correct ones, or their bytes.
    """
    size: int
    data: typing.Any
    contexts: dict = dataclasses.field(default_factory=dict)
    blocks: tuple = None
    listed: list = None
    status_ids: list = None
    on_read: typing.Callable = lambda offset, length: None
    on_status: typing.Callable = lambda context, offset, length: None

    def read(self, offset, length):
        if callable(self.data):
            return self.data(offset, length)
        return self.data[offset:offset + length]

    def status(self, context, offset, length):
        end = min(offset + length, self.size)
        return [(min(e, end) - max(s, offset), kind)
                for s, e, kind in self.contexts[context] if e > offset and s < end]


class NbdServer:
    """Serves EXPORTS, a dict of name to Export; `requests` are the requests so far, as tuples
    (export name, command, offset, length). Changes of the dict or its exports take effect at once.
    `on_option(option)` is called before each reply of the handshake and may raise HangUp; options in
    `refused` are unsupported. `on_goodbye()` is called before the server closes a connection that the
    client has ended. `extended` offers extended headers; it becomes "used" when a client negotiates
    them. Names that are not UTF-8 are str with surrogate escapes."""

    def __init__(self, test, exports, list_exports=True):
        self.exports, self.list_exports = exports, list_exports
        self.on_option = lambda option: None
        self.on_goodbye = lambda: None
        self.refused = ()
        self.extended = False
        self.requests = []
        self.path = test.path("nbd.sock")
        self._connections = set()
        self._listener = None
        self.start()
        test.defer(self.stop)

    def start(self):
        """Starts listening; also after stop()."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def stop(self):
        """Closes all connections and the listener: clients see a dead server."""
        for connection in [self._listener, *self._connections]:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._connections.clear()

    def uri(self, name=""):
        return f"nbd+unix:///{name}?socket={self.path}"

    def ranges(self, command, export=None):
        """The requests of COMMAND as (start, end), sorted."""
        return sorted((offset, offset + length) for name, what, offset, length in self.requests
                      if what == command and export in (None, name))

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                self._connections.add(connection)
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection):
        with contextlib.suppress(OSError, EOFError, HangUp), connection:
            stream = _Stream(connection)
            export = self._negotiate(stream)
            while export and self._answer(stream, *export):
                pass
        self._connections.discard(connection)

    def _negotiate(self, stream):
        """Negotiates options; returns (name, export, structured, contexts), or None without an export."""
        stream.send(b"NBDMAGIC", b"IHAVEOPT", ">H", 1 | 2)
        no_zeroes = stream.unpack(">I")[0] & 2
        structured, contexts = _SIMPLE, []
        while True:
            _, option, length = stream.unpack(">QII")
            data = stream.receive(length)
            self.on_option(option)

            def reply(kind, *parts, option=option):
                payload = b"".join(parts)
                stream.send(">QIII", 0x3e889045565a9, option, kind, len(payload), payload)

            if option in self.refused:
                reply(_REP_ERR_UNSUP, b"not here")
                continue
            if option == _OPT_EXPORT_NAME:
                name = _decode(data)
                export = self.exports[name]
                stream.send(">QH", export.size, _EXPORT_FLAGS, b"" if no_zeroes else bytes(124))
                return name, export, structured, contexts
            if option == _OPT_ABORT:
                reply(_REP_ACK)
                self.on_goodbye()
                return None
            if option == _OPT_LIST and self.list_exports:
                for name in self.exports:
                    reply(_REP_SERVER, struct.pack(">I", len(_encode(name))), _encode(name))
                reply(_REP_ACK)
            elif option == _OPT_STRUCTURED_REPLY:
                structured = _STRUCTURED
                reply(_REP_ACK)
            elif option == _OPT_EXTENDED_HEADERS and self.extended:
                structured, self.extended = _EXTENDED, "used"
                reply(_REP_ACK)
            elif option in (_OPT_INFO, _OPT_GO):
                name = _string(data)[0]
                export = self.exports.get(name)
                if export is None:
                    reply(_REP_ERR_UNKNOWN, b"no such export")
                    continue
                reply(_REP_INFO, struct.pack(">HQH", 0, export.size, _EXPORT_FLAGS))
                if export.blocks:
                    reply(_REP_INFO, struct.pack(">HIII", 3, *export.blocks))
                reply(_REP_ACK)
                if option == _OPT_GO:
                    return name, export, structured, contexts
            elif option in (_OPT_LIST_META, _OPT_SET_META):
                name, rest = _string(data)
                export = self.exports.get(name)
                if export is None or not structured:
                    reply(_REP_ERR_INVALID, b"no such export, or no structured replies")
                    continue
                listing = option == _OPT_LIST_META
                known = export.listed if listing and export.listed else export.contexts
                found = list(_matches(known, rest, listing))
                if not listing:
                    contexts = found
                for i, context in enumerate(found, 1):
                    reply(_REP_META, struct.pack(">I", i), _encode(context))
                reply(_REP_ACK)
            else:
                reply(_REP_ERR_UNSUP, b"not here")

    def _answer(self, stream, name, export, structured, contexts):
        """Answers one request; False when the client disconnects."""
        extended = structured == _EXTENDED
        _, flags, command, handle, offset, length = stream.unpack(
            ">IHHQQQ" if extended else ">IHHQQI")
        if command == DISCONNECT:
            self.on_goodbye()
            return False
        self.requests.append((name, command, offset, length))

        def chunk(kind, payload, done=True):
            if extended:
                stream.send(">IHHQQQ", 0x6e8a278c, int(done), kind, handle, offset, len(payload),
                            payload)
            else:
                stream.send(">IHHQI", 0x668e33ef, int(done), kind, handle, len(payload), payload)

        try:
            if command == READ:
                chunks = export.on_read(offset, length)
                chunks = chunks if isinstance(chunks, list) else None
                data = export.read(offset, length) if chunks is None else b""
                if chunks is not None:
                    for i, (kind, payload) in enumerate(chunks, 1):
                        chunk(kind, payload, i == len(chunks))
                elif structured:
                    chunk(1, struct.pack(">Q", offset) + data)
                else:
                    stream.send(">IIQ", 0x67446698, 0, handle, data)
            elif command == BLOCK_STATUS:
                ids = export.status_ids or range(1, len(contexts) + 1)
                for n, i in enumerate(ids, 1):
                    context = contexts[(i - 1) % len(contexts)]
                    said = export.on_status(context, offset, length)
                    if said is None:
                        said = export.status(context, offset, length)[:1 if flags & 8 else None]
                    if extended:
                        chunk(6, struct.pack(">II", i, len(said)) +
                              b"".join(struct.pack(">QQ", *d) for d in said), n == len(ids))
                        continue
                    if not isinstance(said, bytes):
                        said = b"".join(struct.pack(">II", *d) for d in said)
                    chunk(5, struct.pack(">I", i) + said, n == len(ids))
            else:
                raise OSError(errno.EINVAL, "not here")
        except OSError as error:
            if error.errno is None:
                raise
            if structured:
                chunk(32769, struct.pack(">IH", error.errno, 0))
            else:
                stream.send(">IIQ", 0x67446698, error.errno, handle)
        return True


def _string(data):
    """Splits DATA into a length-prefixed string and the rest."""
    length = struct.unpack_from(">I", data)[0]
    return _decode(data[4:4 + length]), data[4 + length:]


def _encode(name):
    return name.encode(errors="surrogateescape")


def _decode(name):
    return name.decode(errors="surrogateescape")


def _matches(contexts, data, listing):
    """Returns the CONTEXTS that match the queries in DATA; if LISTING, a query may be a namespace."""
    count, data = struct.unpack_from(">I", data)[0], data[4:]
    if listing and count == 0:
        yield from contexts
    for _ in range(count):
        query, data = _string(data)
        if listing and query.endswith(":"):
            yield from (c for c in contexts if c.startswith(query))
        elif query in contexts:
            yield query


class _Stream:
    """Sends and receives packed numbers and bytes over a socket."""

    def __init__(self, connection):
        self._connection = connection

    def send(self, *parts):
        """Sends PARTS: bytes verbatim, or a struct format followed by its values."""
        out, parts = b"", list(parts)
        while parts:
            part = parts.pop(0)
            if isinstance(part, str):
                count = len(struct.unpack(part, bytes(struct.calcsize(part))))
                out += struct.pack(part, *parts[:count])
                del parts[:count]
            else:
                out += part
        self._connection.sendall(out)

    def receive(self, length):
        data = b""
        while len(data) < length:
            more = self._connection.recv(length - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def unpack(self, form):
        return struct.unpack(form, self.receive(struct.calcsize(form)))
