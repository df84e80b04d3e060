import hashlib, os, socket, struct, sys, threading, time

def serve(listener):
    c, _ = listener.accept()
    while True:
        b = c.recv(8)
        if not b:
            return
        c.sendall(b)

def link(before, n):
    return hashlib.sha256(before + struct.pack("<Q", n)).digest()

def line(n, hash):
    return (b"%d %s" % (n, hash.hex().encode())).ljust(511) + b"\n"

listener = socket.create_server(("127.0.0.1", 7777))
threading.Thread(target=serve, args=(listener,), daemon=True).start()
connection = socket.create_connection(("127.0.0.1", 7777))
disk = os.open("/dev/vdb", os.O_RDWR)
ballast = os.urandom(24 << 20)
ballast_hash = hashlib.sha256(ballast).digest()
chain, echoed = [], 0

def check():
    if hashlib.sha256(ballast).digest() != ballast_hash:
        return "memory has changed"
    os.fsync(disk)
    os.posix_fadvise(disk, 0, 0, os.POSIX_FADV_DONTNEED)  # what is read now comes from the disk
    before = b"\0" * 32
    for n, hash in enumerate(chain):
        before = link(before, n)
        if hash != before:
            return "link %d of the chain is wrong" % n
        if os.pread(disk, 512, n * 512) != line(n, hash):
            return "line %d of the log is wrong" % n
    if os.pread(disk, 512, len(chain) * 512).strip(b"\0"):
        return "the log has a line too many"
    if echoed != len(chain):
        return "%d of %d words came back" % (echoed, len(chain))
    return "intact %d links" % len(chain)

while True:
    n = len(chain)
    chain.append(link(chain[-1] if chain else b"\0" * 32, n))
    connection.sendall(struct.pack("<Q", n))
    got = b""
    while len(got) < 8:
        more = connection.recv(8 - len(got))
        if not more:
            sys.exit("the connection has ended")
        got += more
    if struct.unpack("<Q", got)[0] != n:
        sys.exit("word %d came back as %r" % (n, got))
    echoed += 1
    os.pwrite(disk, line(n, chain[-1]), n * 512)
    os.fsync(disk)
    with open("/tmp/n.new", "w") as f:
        f.write(str(n))
    os.rename("/tmp/n.new", "/tmp/n")
    if os.path.exists("/tmp/check"):
        os.remove("/tmp/check")
        with open("/tmp/result.new", "w") as f:
            f.write(check())
        os.rename("/tmp/result.new", "/tmp/result")
    time.sleep(0.02)
