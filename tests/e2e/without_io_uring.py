"""Runs a program to which the kernel refuses io_uring, as containers' seccomp profiles do."""
import ctypes
import os
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2
IO_URING = range(425, 428)  # setup, enter, register: the same numbers on every architecture
ALLOW, REFUSE = 0x7FFF0000, 0x00050001  # the latter: errno 1, EPERM


class Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte),
                ("k", ctypes.c_uint)]


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction))]


code = [Instruction(0x20, 0, 0, 0)]  # the system call's number
for nth, number in enumerate(IO_URING):
    code.append(Instruction(0x15, len(IO_URING) - nth, 0, number))  # equal: go to REFUSE
code += [Instruction(0x06, 0, 0, ALLOW), Instruction(0x06, 0, 0, REFUSE)]
program = Program(len(code), (Instruction * len(code))(*code))

prctl = ctypes.CDLL(None, use_errno=True).prctl
if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(PR_SET_SECCOMP, MODE_FILTER,
                                                  ctypes.byref(program), 0, 0):
    sys.exit(f"no filter: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[1], sys.argv[1:])
