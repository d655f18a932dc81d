/* Preloaded into a job: lets one of its calls below two directories fail, kills it there, or lets
   its wall clock jump.

   HEADRACE_FAULT_FILE   a file of struct state, shared by all processes of the job: what is to fail, how many
                         calls there were
   HEADRACE_FAULT_BELOW  the output's directory; calls on other paths pass
   HEADRACE_FAULT_TEMP   that of temporary files, which are all called `temporary`
   HEADRACE_FAULT_LOG    every call is appended to it: its number, process, name, path

   Counted are the calls that change something: write, open for writing, rename, link, unlink, mkdir, truncate, fsync.
   glibc's own calls inside one another are not seen, so each is counted once. Paths are logged and compared without
   what is random in them, so that a call has the same name in every run. */

#define _GNU_SOURCE
#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { ONCE = 0, FROM_THEN_ON = 1, HALF = 2, DIE = 3, JUMP = 4 };

/* As struct.pack("<8q1024s") of tests/jobs/faults.py makes it. */
struct state {
  _Atomic int64_t calls;  /* counted so far */
  _Atomic int64_t seen;   /* those of the name below */
  int64_t fail_at;        /* the number of the one that fails among them, from 1; 0: none */
  int64_t error;          /* its errno */
  int64_t how;            /* once; from then on; half of a write is done, without an error; the process is killed;
                             nothing fails but the clock */
  _Atomic int64_t failed; /* calls that have failed */
  int64_t clock_seed;     /* 0: the clock does not jump all the time */
  int64_t seconds;        /* that the clock is wrong by from that call on */
  char name[1024];        /* call and path */
};

static struct state *state;
static const char *below, *temporary;
static int log_file = -1;

__attribute__((constructor)) static void begin(void) {
  const char *file = getenv("HEADRACE_FAULT_FILE"), *log = getenv("HEADRACE_FAULT_LOG");
  below = getenv("HEADRACE_FAULT_BELOW");
  temporary = getenv("HEADRACE_FAULT_TEMP");
  if (!file || !below || !temporary) return;
  int shared = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC);
  if (shared < 0) abort();
  state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
  if (state == MAP_FAILED) abort();
  close(shared);
  if (log) log_file = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

/* What of `path` is below `directory`; NULL where it is not. */
static const char *rest_below(const char *path, const char *directory) {
  size_t length = strlen(directory);
  if (strncmp(path, directory, length) || (path[length] && path[length] != '/')) return NULL;
  return path[length] ? path + length + 1 : path + length;
}

static const char digits[] = "0123456789abcdef";

/* Writes `path` without what is random in it: fingerprints of 32 digits are *, and .<pid>-<8 digits>.tmp is .tmp. */
static void name_path(char *name, const char *path) {
  char *to = name, *end;
  for (const char *from = path; *from;) {
    int starts = from == path || !(isalnum((unsigned char)from[-1]) || from[-1] == '_');
    if (starts && strspn(from, digits) == 32 && !isalnum((unsigned char)from[32]) && from[32] != '_') {
      *to++ = '*';
      from += 32;
    } else {
      *to++ = *from++;
    }
  }
  *to = 0;
  if (to - name < 14 || strcmp(to - 4, ".tmp") || strspn(to - 12, digits) != 8 || to[-13] != '-') return;
  for (end = to - 14; end > name && *end >= '0' && *end <= '9'; end--) continue;
  if (*end == '.') strcpy(end, ".tmp");
}

/* Whether a call on `path` has to fail; 1: yes, errno is set; 2: it shall write only half. */
static int fails(const char *call, const char *path) {
  if (!state) return 0;
  const char *rest = rest_below(path, below);
  if (!rest && !rest_below(path, temporary)) return 0;
  char name[2 * PATH_MAX + 20], line[2 * PATH_MAX + 60];
  int length = snprintf(name, sizeof name, "%s ", call);
  if (rest) name_path(name + length, rest);
  else strcpy(name + length, "temporary");
  int64_t number = atomic_fetch_add(&state->calls, 1) + 1, seen = 0;
  if (state->fail_at && !strcmp(name, state->name)) seen = atomic_fetch_add(&state->seen, 1) + 1;
  int hit = state->fail_at && seen == state->fail_at;
  if (state->how == FROM_THEN_ON && atomic_load(&state->failed)) hit = 1;
  if (hit) atomic_fetch_add(&state->failed, 1);
  if (log_file >= 0) {
    length = snprintf(line, sizeof line, "%lld %d %s%s\n", (long long)number, getpid(), hit ? "!" : "", name);
    syscall(SYS_write, log_file, line, (size_t)length);
  }
  if (!hit || state->how == JUMP) return 0;
  if (state->how == DIE) kill(getpid(), SIGKILL);
  if (state->how == HALF) return strstr(call, "write") ? 2 : 0;
  errno = (int)state->error;
  return 1;
}

static int fails_at(const char *call, int directory, const char *path) {
  char whole[2 * PATH_MAX], link[64];
  if (!state) return 0;
  if (path[0] == '/') return fails(call, path);
  if (directory == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
  else snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
  ssize_t length = readlink(link, whole, PATH_MAX - 1);
  if (length < 0) return 0;
  snprintf(whole + length, sizeof whole - (size_t)length, "/%s", path);
  return fails(call, whole);
}

static int fails_on(const char *call, int file) {
  char link[64], path[PATH_MAX];
  if (!state) return 0;
  int before = errno;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  errno = before;
  if (length < 0) return 0;
  path[length] = 0;
  return fails(call, path);
}

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) {
  void *found = dlsym(RTLD_NEXT, name);
  if (!found) abort();
  return found;
}

#define WRITES(flags) (((flags) & O_ACCMODE) != O_RDONLY || ((flags) & (O_CREAT | O_TRUNC)))
#define MODE(flags) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list rest; \
    va_start(rest, flags); \
    mode = va_arg(rest, mode_t); \
    va_end(rest); \
  }

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    MODE(flags) \
    return WRITES(flags) && fails_at("open", AT_FDCWD, path) ? -1 : REAL(name)(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
  int name(int directory, const char *path, int flags, ...) { \
    MODE(flags) \
    return WRITES(flags) && fails_at("open", directory, path) ? -1 : REAL(name)(directory, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

/* A write of which only half shall be done is one of half the length; one byte is written in full. */
#define WRITE(name, call, file, ...) \
  int hit = fails_on(call, file); \
  if (hit == 1) return -1; \
  if (hit == 2 && count > 1) count /= 2; \
  return REAL(name)(file, __VA_ARGS__);

ssize_t write(int file, const void *data, size_t count) { WRITE(write, "write", file, data, count) }
ssize_t pwrite(int file, const void *data, size_t count, off_t at) { WRITE(pwrite, "pwrite", file, data, count, at) }
ssize_t pwrite64(int file, const void *data, size_t count, off64_t at) {
  WRITE(pwrite64, "pwrite", file, data, count, at)
}
ssize_t writev(int file, const struct iovec *parts, int count) { WRITE(writev, "writev", file, parts, count) }
ssize_t pwritev(int file, const struct iovec *parts, int count, off_t at) {
  WRITE(pwritev, "pwritev", file, parts, count, at)
}

int rename(const char *from, const char *to) {
  return fails_at("rename", AT_FDCWD, to) ? -1 : REAL(rename)(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
  return fails_at("rename", b, to) ? -1 : REAL(renameat)(a, from, b, to);
}
int link(const char *from, const char *to) { return fails_at("link", AT_FDCWD, to) ? -1 : REAL(link)(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
  return fails_at("link", b, to) ? -1 : REAL(linkat)(a, from, b, to, flags);
}
int symlink(const char *from, const char *to) {
  return fails_at("symlink", AT_FDCWD, to) ? -1 : REAL(symlink)(from, to);
}
int unlink(const char *path) { return fails_at("unlink", AT_FDCWD, path) ? -1 : REAL(unlink)(path); }
int unlinkat(int directory, const char *path, int flags) {
  return fails_at("unlink", directory, path) ? -1 : REAL(unlinkat)(directory, path, flags);
}
int rmdir(const char *path) { return fails_at("rmdir", AT_FDCWD, path) ? -1 : REAL(rmdir)(path); }
int mkdir(const char *path, mode_t mode) { return fails_at("mkdir", AT_FDCWD, path) ? -1 : REAL(mkdir)(path, mode); }
int mkdirat(int directory, const char *path, mode_t mode) {
  return fails_at("mkdir", directory, path) ? -1 : REAL(mkdirat)(directory, path, mode);
}
int ftruncate(int file, off_t length) { return fails_on("truncate", file) ? -1 : REAL(ftruncate)(file, length); }
int ftruncate64(int file, off64_t length) {
  return fails_on("truncate", file) ? -1 : REAL(ftruncate64)(file, length);
}
int fsync(int file) { return fails_on("fsync", file) ? -1 : REAL(fsync)(file); }
int fdatasync(int file) { return fails_on("fsync", file) ? -1 : REAL(fdatasync)(file); }

/* Seconds that the wall clock is wrong by: what a call made it, or another amount every 50 ms, up to hours, or ten
   years, to either side. */
static int64_t jump(void) {
  if (!state) return 0;
  if (state->how == JUMP && atomic_load(&state->failed)) return state->seconds;
  if (!state->clock_seed) return 0;
  struct timespec steady;
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &steady);
  uint64_t mixed = (uint64_t)state->clock_seed + (uint64_t)steady.tv_sec * 20 + (uint64_t)steady.tv_nsec / 50000000;
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
  mixed ^= mixed >> 31;
  int64_t bound = mixed & 1 ? 10 * 365 * 86400ll : 6 * 3600;
  return (int64_t)(mixed >> 8) % (2 * bound) - bound;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int result = REAL(clock_gettime)(clock, now);
  if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += jump();
  return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  int result = REAL(gettimeofday)(now, zone);
  if (!result) now->tv_sec += jump();
  return result;
}
time_t time(time_t *kept) {
  time_t now = REAL(time)(NULL) + jump();
  if (kept) *kept = now;
  return now;
}
