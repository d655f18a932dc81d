// The loader's inner loops: tf.train.Examples to columns, JPEGs to finished batches. No Python object is touched while
// they run, so any number of threads can be in here at once.
//
// Every function has a twin of TensorFlow operations (loader/decode.py, loader/image_ops.py) and gives the same bits,
// which tests compare. What this file does not know (a CMYK image, a JPEG that libjpeg warns about, …) it says so of,
// and leaves it to the twin. Compiled with -ffp-contract=off: a fused multiply-add would round differently.

#define _POSIX_C_SOURCE 200809L
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jpeglib.h>

#include "native_huffman.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define AVX2 __attribute__((target("avx2")))
#include <immintrin.h>
#endif
#if defined(AVX2) && defined(__gnu_linux__) && !defined(__clang__)
#define WIDE __attribute__((target_clones("avx2", "default")))  // picked when the module is loaded
#else
#define WIDE
#endif

typedef struct {
  const uint8_t *at;
  const uint8_t *end;
} Bytes;

// ---------------------------------------------------------------------------------------------------------------------
// Arguments

// The buffers of one call, released together.
typedef struct {
  Py_buffer *views;
  Py_ssize_t count, room;
} Views;

static bool views_open(Views *views, Py_ssize_t room) {
  *views = (Views){PyMem_Calloc((size_t)room + 1, sizeof(Py_buffer)), 0, room};
  if (views->views == NULL) PyErr_NoMemory();
  return views->views != NULL;
}

static void views_close(Views *views) {
  for (Py_ssize_t i = 0; i < views->count; i++) PyBuffer_Release(&views->views[i]);
  PyMem_Free(views->views);
}

// The memory of a C-contiguous array of at least `size` bytes; NULL with an exception, or for None.
static void *view_of(Views *views, PyObject *object, bool writable, Py_ssize_t size) {
  if (object == Py_None) return NULL;
  if (views->count == views->room) {
    PyErr_SetString(PyExc_SystemError, "more buffers than expected");
    return NULL;
  }
  Py_buffer *view = &views->views[views->count];
  if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0))) return NULL;
  views->count++;
  if (view->len < size) {
    PyErr_Format(PyExc_ValueError, "an array of %zd bytes, where %zd are needed", view->len, size);
    return NULL;
  }
  return view->buf;
}

// The contents of a list of bytes or mmap objects, which stay alive as long as the list is not changed.
static Bytes *bytes_of(PyObject *list, Py_ssize_t count) {
  Bytes *found = PyMem_Malloc(sizeof(Bytes) * ((size_t)count + 1));
  if (found == NULL) return (Bytes *)PyErr_NoMemory();
  for (Py_ssize_t i = 0; i < count; i++) {
    Py_buffer view;
    if (PyObject_GetBuffer(PyList_GET_ITEM(list, i), &view, PyBUF_SIMPLE)) {
      PyMem_Free(found);
      return NULL;
    }
    found[i] = (Bytes){view.buf, (const uint8_t *)view.buf + view.len};
    PyBuffer_Release(&view);  // what is in the list is never closed or resized, so that its memory stays
  }
  return found;
}

// Parts of buffers: spans are int64 (n, 3), the number of a buffer, and where in it a part begins and ends.
typedef struct {
  const uint8_t *buffer;
  const uint8_t *at;
  const uint8_t *end;
  int64_t number;
} Part;

static Part *parts_of(PyObject *list, const int64_t *spans, Py_ssize_t count) {
  Py_ssize_t buffers = PyList_GET_SIZE(list);
  Bytes *bytes = bytes_of(list, buffers);
  if (bytes == NULL) return NULL;
  Part *parts = PyMem_Malloc(sizeof(Part) * ((size_t)count + 1));
  if (parts == NULL) PyErr_NoMemory();
  for (Py_ssize_t i = 0; parts != NULL && i < count; i++) {
    int64_t number = spans[3 * i], low = spans[3 * i + 1], high = spans[3 * i + 2];
    if (number < 0 || number >= buffers || low < 0 || low > high || high > bytes[number].end - bytes[number].at) {
      PyErr_Format(PyExc_ValueError, "span %zd lies outside of its buffer", i);
      PyMem_Free(parts);
      parts = NULL;
    } else {
      const uint8_t *buffer = bytes[number].at;
      parts[i] = (Part){buffer, buffer + low, buffer + high, number};
    }
  }
  PyMem_Free(bytes);
  return parts;
}

// The spans of a call, and how many there are.
static const int64_t *spans_of(Views *views, PyObject *object, Py_ssize_t *count) {
  const int64_t *spans = view_of(views, object, false, 0);
  if (spans == NULL && !PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "an array is needed");
  *count = spans == NULL ? 0 : views->views[views->count - 1].len / (3 * (Py_ssize_t)sizeof(int64_t));
  return spans;
}

// ---------------------------------------------------------------------------------------------------------------------
// Files

// All of a range, as far as the file goes; -1 with errno.
static ssize_t read_range(int file, uint8_t *out, int64_t offset, int64_t length) {
  int64_t done = 0;
  while (done < length) {
    ssize_t got = pread(file, out + done, (size_t)(length - done), (off_t)(offset + done));
    if (got == 0) break;
    if (got > 0)
      done += got;
    else if (errno != EINTR)
      return -1;
  }
  return (ssize_t)done;
}

static PyObject *read_ranges(PyObject *module, PyObject *args) {
  (void)module;
  PyObject *ranges_, *into, *data = NULL;
  if (!PyArg_ParseTuple(args, "OO", &ranges_, &into)) return NULL;
  Py_ssize_t count, row = 0, total = 0;
  Views views;
  if (!views_open(&views, 2)) return NULL;
  const int64_t *ranges = spans_of(&views, ranges_, &count);  // descriptor, offset, length
  for (Py_ssize_t i = 0; ranges != NULL && i < count; i++) {
    int64_t file = ranges[3 * i], offset = ranges[3 * i + 1], length = ranges[3 * i + 2];
    if (file < 0 || file > INT_MAX || offset < 0 || length < 0 || length > PY_SSIZE_T_MAX - total ||
        offset > INT64_MAX - length) {
      PyErr_SetString(PyExc_ValueError, "there is no such range of a file");
      ranges = NULL;
    } else {
      total += length;
    }
  }
  uint8_t *out = NULL;
  if (ranges != NULL && into != Py_None) {
    out = view_of(&views, into, true, total);
    data = out == NULL ? NULL : Py_NewRef(into);
  } else if (ranges != NULL) {
    data = PyBytes_FromStringAndSize(NULL, total);
    out = data == NULL ? NULL : (uint8_t *)PyBytes_AS_STRING(data);
  }
  if (data != NULL) {
    ssize_t got = 0;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    for (; row < count; row++) {
      got = read_range((int)ranges[3 * row], out, ranges[3 * row + 1], ranges[3 * row + 2]);
      if (got < ranges[3 * row + 2]) break;
      out += got;
    }
    error = errno;
    Py_END_ALLOW_THREADS;
    if (row < count) Py_CLEAR(data);  // what was not read is not to be seen
    if (got < 0) {
      errno = error;
      PyErr_SetFromErrno(PyExc_OSError);
    } else {
      data = row < count ? Py_BuildValue("Onn", Py_None, row, (Py_ssize_t)got) : Py_BuildValue("Nnn", data, count, got);
    }
  }
  views_close(&views);
  return data;
}

// ---------------------------------------------------------------------------------------------------------------------
// TFRecord frames

static uint32_t crc_tables[8][256];

// CRC-32C (Castagnoli), eight bytes at a time: "slicing by 8" (Kounavis and Berry, 2005).
static void crc_begin(void) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    crc_tables[0][i] = crc;
  }
  for (int table = 1; table < 8; table++)
    for (uint32_t i = 0; i < 256; i++)
      crc_tables[table][i] = crc_tables[table - 1][i] >> 8 ^ crc_tables[0][crc_tables[table - 1][i] & 0xff];
}

static uint32_t crc_by_table(uint32_t crc, const uint8_t *at, const uint8_t *end) {
  for (; end - at >= 8; at += 8) {
    uint32_t low, high;
    memcpy(&low, at, 4);
    memcpy(&high, at + 4, 4);
    low ^= crc;
    crc = crc_tables[7][low & 0xff] ^ crc_tables[6][low >> 8 & 0xff] ^ crc_tables[5][low >> 16 & 0xff] ^
          crc_tables[4][low >> 24] ^ crc_tables[3][high & 0xff] ^ crc_tables[2][high >> 8 & 0xff] ^
          crc_tables[1][high >> 16 & 0xff] ^ crc_tables[0][high >> 24];
  }
  for (; at < end; at++) crc = crc >> 8 ^ crc_tables[0][(crc ^ *at) & 0xff];
  return crc;
}

#ifdef AVX2
#define LANE 1024  // bytes: three are checked at a time, as the instruction's result takes three cycles
static uint32_t lane_tables[2][4][256];  // the CRC after LANE, and 2 * LANE, zero bytes, by byte of the CRC before

static void lanes_begin(void) {
  static const uint8_t zeros[2 * LANE];
  for (int lanes = 0; lanes < 2; lanes++)
    for (int byte = 0; byte < 4; byte++)
      for (uint32_t i = 0; i < 256; i++)
        lane_tables[lanes][byte][i] = crc_by_table(i << 8 * byte, zeros, zeros + (lanes + 1) * LANE);
}

static uint32_t crc_shift(int lanes, uint32_t crc) {
  uint32_t(*tables)[256] = lane_tables[lanes - 1];
  return tables[0][crc & 0xff] ^ tables[1][crc >> 8 & 0xff] ^ tables[2][crc >> 16 & 0xff] ^ tables[3][crc >> 24];
}

__attribute__((target("sse4.2"))) static uint32_t crc_by_instruction(uint32_t crc, const uint8_t *at,
                                                                    const uint8_t *end) {
  uint64_t word, a = crc;
  while (end - at >= 3 * LANE) {
    uint64_t b = 0, c = 0;
    for (const uint8_t *stop = at + LANE; at < stop; at += 8) {
      memcpy(&word, at, 8);
      a = _mm_crc32_u64(a, word);
      memcpy(&word, at + LANE, 8);
      b = _mm_crc32_u64(b, word);
      memcpy(&word, at + 2 * LANE, 8);
      c = _mm_crc32_u64(c, word);
    }
    at += 2 * LANE;
    a = crc_shift(2, (uint32_t)a) ^ crc_shift(1, (uint32_t)b) ^ (uint32_t)c;
  }
  for (; end - at >= 8; at += 8) {
    memcpy(&word, at, 8);
    a = _mm_crc32_u64(a, word);
  }
  for (; at < end; at++) a = _mm_crc32_u8((uint32_t)a, *at);
  return (uint32_t)a;
}
#endif

static uint32_t crc32c(const uint8_t *at, const uint8_t *end) {
#ifdef AVX2
  if (__builtin_cpu_supports("sse4.2")) return ~crc_by_instruction(~0u, at, end);
#endif
  return ~crc_by_table(~0u, at, end);
}

enum { SOUND, BAD_LENGTH, BAD_CRC, HEADER = 12, FOOTER = 4 };

static uint8_t check_frame(const uint8_t *at, const uint8_t *end) {
  uint64_t length;
  uint32_t stored;
  if (end - at < HEADER + FOOTER) return BAD_LENGTH;
  memcpy(&length, at, sizeof length);
  if (length != (uint64_t)(end - at - HEADER - FOOTER)) return BAD_LENGTH;
  memcpy(&stored, end - FOOTER, sizeof stored);
  uint32_t crc = crc32c(at + HEADER, end - FOOTER);
  return stored == (crc >> 15 | crc << 17) + 0xa282ead8u ? SOUND : BAD_CRC;
}

static PyObject *check(PyObject *module, PyObject *args) {
  (void)module;
  PyObject *buffers, *spans_, *status_, *result = NULL;
  if (!PyArg_ParseTuple(args, "O!OO", &PyList_Type, &buffers, &spans_, &status_)) return NULL;
  Py_ssize_t count;
  Views views;
  if (!views_open(&views, 2)) return NULL;
  const int64_t *spans = spans_of(&views, spans_, &count);
  uint8_t *status = spans == NULL ? NULL : view_of(&views, status_, true, count);
  Part *frames = status == NULL ? NULL : parts_of(buffers, spans, count);
  if (frames != NULL) {
    Py_BEGIN_ALLOW_THREADS;
    for (Py_ssize_t i = 0; i < count; i++) status[i] = check_frame(frames[i].at, frames[i].end);
    Py_END_ALLOW_THREADS;
    result = Py_NewRef(Py_None);
  } else if (!PyErr_Occurred()) {
    PyErr_SetString(PyExc_TypeError, "an array is needed");
  }
  PyMem_Free(frames);
  views_close(&views);
  return result;
}

// ---------------------------------------------------------------------------------------------------------------------
// tf.train.Example

enum { INT64 = 0, FLOAT32 = 1, SPAN = 2, MAX_FIELDS = 4096 };

typedef struct {
  Bytes name;
  long kind;
  Py_ssize_t length;  // values of a record; 1 of a span
  Py_ssize_t outputs;  // 1: an array of (records, length); else `length` arrays of (records,), NULL where not wanted
  void **out;
} Field;

static inline bool read_varint(Bytes *from, uint64_t *value) {
  uint64_t found = 0;
  if (from->at < from->end && *from->at < 0x80) {  // nearly all of them
    *value = *from->at++;
    return true;
  }
  for (int shift = 0; shift < 64 && from->at < from->end; shift += 7) {
    uint8_t byte = *from->at++;
    found |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) {
      *value = found;
      return true;
    }
  }
  return false;
}

// The next field of a message: its tag, and what it holds if it has a length (else it is passed over).
static inline bool read_field(Bytes *from, uint64_t *tag, Bytes *inside) {
  uint64_t size;
  if (!read_varint(from, tag)) return false;
  *inside = (Bytes){from->at, from->at};
  switch (*tag & 7) {
    case 0:
      return read_varint(from, &size);
    case 1:
      size = 8;
      break;
    case 2:
      if (!read_varint(from, &size)) return false;
      break;
    case 5:
      size = 4;
      break;
    default:
      return false;
  }
  if (size > (uint64_t)(from->end - from->at)) return false;
  *inside = (Bytes){from->at, from->at + size};
  from->at += size;
  return true;
}

static inline void *slot(const Field *field, Py_ssize_t row, Py_ssize_t place, size_t width) {
  if (field->outputs == 1) return (char *)field->out[0] + (size_t)(row * field->length + place) * width;
  return field->out[place] == NULL ? NULL : (char *)field->out[place] + (size_t)row * width;
}

// The values of one list, packed or not; false if they are not `length` of the wanted type.
static bool read_list(Bytes list, const Field *field, Py_ssize_t row, const Part *record) {
  Py_ssize_t found = 0;
  while (list.at < list.end) {
    uint64_t tag, value = 0;
    Bytes inside, before = list;
    if (!read_field(&list, &tag, &inside)) return false;
    if (tag >> 3 != 1) continue;
    if (field->kind == SPAN) {
      if (tag != 0x0a || found == 1) return false;
      int64_t *out = slot(field, row, 0, 3 * sizeof(int64_t));
      out[0] = record->number;
      out[1] = inside.at - record->buffer;
      out[2] = inside.end - record->buffer;
      found++;
    } else if (field->kind == FLOAT32) {
      if ((tag & 7) != 2 && (tag & 7) != 5) return false;
      for (; inside.end - inside.at >= 4; inside.at += 4, found++) {
        if (found == field->length) return false;
        void *out = slot(field, row, found, 4);
        if (out != NULL) memcpy(out, inside.at, 4);  // little-endian, as TFRecords and all our machines are
      }
      if (inside.at != inside.end) return false;
    } else {
      if ((tag & 7) == 0) {
        inside = before;
        read_varint(&inside, &tag);
        inside.end = list.at;
      } else if ((tag & 7) != 2) {
        return false;
      }
      for (; inside.at < inside.end; found++) {
        if (found == field->length || !read_varint(&inside, &value)) return false;
        void *out = slot(field, row, found, 8);
        if (out != NULL) memcpy(out, &value, 8);
      }
    }
  }
  return found == field->length;
}

static const uint64_t LIST_TAGS[] = {[INT64] = 0x1a, [FLOAT32] = 0x12, [SPAN] = 0x0a};

static bool read_feature(Bytes feature, const Field *field, Py_ssize_t row, const Part *record) {
  uint64_t tag;
  Bytes inside;
  bool good = false;
  while (feature.at < feature.end) {
    if (!read_field(&feature, &tag, &inside)) return false;
    // The last of several lists is the one that counts, as of any protobuf "oneof".
    if (tag == 0x0a || tag == 0x12 || tag == 0x1a)
      good = tag == LIST_TAGS[field->kind] && read_list(inside, field, row, record);
  }
  return good;
}

// An entry as encoders write it, whose parts all have lengths of one byte and follow each other in the usual order, of
// the field that is expected: how long it is, or 0 if it is none such, which says nothing of it.
static inline Py_ssize_t usual_entry(Bytes from, const Field *field, Py_ssize_t row) {
  const Py_ssize_t name = field->name.end - field->name.at, left = from.end - from.at;
  if (field->kind == SPAN || left < 10 + name || from.at[1] >= 0x80 || from.at[1] + 2 > left) return 0;
  const uint8_t *value = from.at + 4 + name, *values = value + 6;
  const Py_ssize_t size = from.at[1] + 2, bytes = size - 10 - name;  // of the entry, of its values
  if (bytes < 0 || from.at[2] != 0x0a || from.at[3] != name || value[0] != 0x12 || value[1] != bytes + 4 ||
      value[2] != LIST_TAGS[field->kind] || value[3] != bytes + 2 || value[4] != 0x0a || value[5] != bytes ||
      memcmp(from.at + 4, field->name.at, (size_t)name))
    return 0;
  if (field->kind == FLOAT32) {
    if (bytes != 4 * field->length) return 0;
    for (Py_ssize_t i = 0; i < field->length; i++) {
      void *out = slot(field, row, i, 4);
      if (out != NULL) memcpy(out, values + 4 * i, 4);
    }
    return size;
  }
  Bytes list = {values, values + bytes};
  for (Py_ssize_t i = 0; i < field->length; i++) {
    uint64_t number;
    if (!read_varint(&list, &number)) return 0;
    void *out = slot(field, row, i, 8);
    if (out != NULL) memcpy(out, &number, 8);
  }
  return list.at == list.end ? size : 0;
}

// -1, or the first field that the record does not hold as wanted; `count` if it is no tf.train.Example at all.
static Py_ssize_t read_example(const Part *part, const Field *fields, Py_ssize_t count, bool *seen, Py_ssize_t row) {
  Bytes record = {part->at, part->end};
  uint64_t tag;
  Bytes features, entry, inside;
  Py_ssize_t next = 0;  // fields usually come in the order in which they are wanted
  memset(seen, 0, (size_t)count * sizeof *seen);
  while (record.at < record.end) {
    if (!read_field(&record, &tag, &features)) return count;
    if (tag != 0x0a) continue;
    while (features.at < features.end) {
      const Py_ssize_t usual = count && *features.at == 0x0a ? usual_entry(features, &fields[next], row) : 0;
      if (usual) {
        features.at += usual;
        seen[next] = true;
        next = next + 1 < count ? next + 1 : 0;
        continue;
      }
      if (!read_field(&features, &tag, &entry)) return count;
      if (tag != 0x0a) continue;
      Bytes name = {entry.at, entry.at}, value = name;
      while (entry.at < entry.end) {
        if (!read_field(&entry, &tag, &inside)) return count;
        if (tag == 0x0a) name = inside;
        if (tag == 0x12) value = inside;
      }
      for (Py_ssize_t tried = 0; tried < count; tried++) {
        Py_ssize_t at = next + tried < count ? next + tried : next + tried - count;
        const Bytes *wanted = &fields[at].name;
        if (name.end - name.at != wanted->end - wanted->at) continue;
        if (memcmp(name.at, wanted->at, (size_t)(name.end - name.at))) continue;
        seen[at] = read_feature(value, &fields[at], row, part);  // the last of that name counts
        next = at + 1 < count ? at + 1 : 0;
        break;
      }
    }
  }
  for (Py_ssize_t at = 0; at < count; at++)
    if (!seen[at]) return at;
  return -1;
}

// One field's description, (name, kind, length, [arrays]).
static bool field_of(PyObject *described, Field *field, Py_ssize_t records, Views *views) {
  static const Py_ssize_t WIDTHS[] = {[INT64] = 8, [FLOAT32] = 4, [SPAN] = 24};
  const char *name;
  Py_ssize_t size;
  PyObject *arrays;
  if (!PyArg_ParseTuple(described, "y#lnO!", &name, &size, &field->kind, &field->length, &PyList_Type, &arrays))
    return false;
  field->name = (Bytes){(const uint8_t *)name, (const uint8_t *)name + size};
  field->outputs = PyList_GET_SIZE(arrays);
  bool whole = field->outputs == 1;
  if (field->kind < INT64 || field->kind > SPAN || field->length < 0 || field->length > INT_MAX ||
      (field->kind == SPAN && field->length != 1) || !(whole || field->outputs == field->length)) {
    PyErr_SetString(PyExc_ValueError, "there is no such kind of field");
    return false;
  }
  field->out = PyMem_Calloc((size_t)field->outputs + 1, sizeof(void *));
  if (field->out == NULL) return PyErr_NoMemory() != NULL;
  for (Py_ssize_t i = 0; i < field->outputs; i++) {
    PyObject *array = PyList_GET_ITEM(arrays, i);
    if (array == Py_None && !whole) continue;
    field->out[i] = view_of(views, array, true, records * WIDTHS[field->kind] * (whole ? field->length : 1));
    if (field->out[i] == NULL) {
      if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "an array is needed");
      return false;
    }
  }
  return true;
}

enum { AHEAD = 4, LINE = 64, MOST_LINES = 16 };  // records; bytes of the processor's caches

static inline void fetch_ahead(const Part *record) {
  const uint8_t *end = record->end - record->at > LINE * MOST_LINES ? record->at + LINE * MOST_LINES : record->end;
  for (const uint8_t *at = record->at; at < end; at += LINE) __builtin_prefetch(at);
}

static PyObject *parse(PyObject *module, PyObject *args) {
  (void)module;
  PyObject *buffers, *spans_, *described, *result = NULL;
  if (!PyArg_ParseTuple(args, "O!OO!", &PyList_Type, &buffers, &spans_, &PyList_Type, &described)) return NULL;
  Py_ssize_t wanted = PyList_GET_SIZE(described), room = 1, count = 0;
  if (wanted > MAX_FIELDS) return PyErr_Format(PyExc_ValueError, "at most %d fields", MAX_FIELDS);
  for (Py_ssize_t i = 0; i < wanted; i++) {
    PyObject *one = PyList_GET_ITEM(described, i);
    if (PyTuple_Check(one) && PyTuple_GET_SIZE(one) == 4 && PyList_Check(PyTuple_GET_ITEM(one, 3)))
      room += PyList_GET_SIZE(PyTuple_GET_ITEM(one, 3));
  }
  Views views;
  if (!views_open(&views, room)) return NULL;
  const int64_t *spans = spans_of(&views, spans_, &count);
  Part *records = spans == NULL ? NULL : parts_of(buffers, spans, count);
  Field *fields = PyMem_Calloc((size_t)wanted + 1, sizeof(Field));
  bool *seen = PyMem_Calloc((size_t)wanted + 1, sizeof(bool));
  if (fields == NULL || seen == NULL) PyErr_NoMemory();
  bool ready = records != NULL && fields != NULL && seen != NULL;
  for (Py_ssize_t i = 0; ready && i < wanted; i++)
    ready = field_of(PyList_GET_ITEM(described, i), &fields[i], count, &views);
  if (ready) {
    Py_ssize_t row = 0, wrong = -1;
    Py_BEGIN_ALLOW_THREADS;
    for (; row < count; row++) {
      // A shuffled table's rows lie anywhere in tens of megabytes: fetched ahead, in parallel.
      if (row + AHEAD < count) fetch_ahead(&records[row + AHEAD]);
      if ((wrong = read_example(&records[row], fields, wanted, seen, row)) >= 0) break;
    }
    Py_END_ALLOW_THREADS;
    result = wrong < 0 ? Py_NewRef(Py_None) : Py_BuildValue("nn", row, wrong);
  }
  for (Py_ssize_t i = 0; fields != NULL && i < wanted; i++) PyMem_Free(fields[i].out);
  PyMem_Free(seen);
  PyMem_Free(fields);
  PyMem_Free(records);
  views_close(&views);
  return result;
}

static PyObject *slices(PyObject *module, PyObject *args) {
  (void)module;
  PyObject *buffers, *spans_, *result = NULL;
  if (!PyArg_ParseTuple(args, "O!O", &PyList_Type, &buffers, &spans_)) return NULL;
  Py_ssize_t count;
  Views views;
  if (!views_open(&views, 1)) return NULL;
  const int64_t *spans = spans_of(&views, spans_, &count);
  Part *parts = spans == NULL ? NULL : parts_of(buffers, spans, count);
  if (parts != NULL) result = PyList_New(count);
  for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
    PyObject *item = PyBytes_FromStringAndSize((const char *)parts[i].at, parts[i].end - parts[i].at);
    if (item == NULL)
      Py_CLEAR(result);
    else
      PyList_SET_ITEM(result, i, item);
  }
  PyMem_Free(parts);
  views_close(&views);
  return result;
}

// ---------------------------------------------------------------------------------------------------------------------
// Random crops: what tf.image.stateless_sample_distorted_bounding_box draws

typedef struct {
  uint32_t key[2], counter[4], ready[4];
  int used;
} Philox;

// Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011): Philox4x32 with 10 rounds.
static void philox_block(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
  uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]}, k[2] = {key[0], key[1]};
  for (int round = 0; round < 10; round++) {
    uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
    uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k[0], (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ k[1], (uint32_t)a};
    memcpy(c, next, sizeof c);
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  memcpy(out, c, sizeof c);
}

// The stream that TensorFlow's stateless operations make of a seed.
static Philox philox_of(const int64_t seed[2]) {
  static const uint32_t KEY[2] = {0x3ec8f720u, 0x02461e29u};
  uint64_t a = (uint64_t)seed[0], b = (uint64_t)seed[1];
  uint32_t counter[4] = {(uint32_t)a, (uint32_t)(a >> 32), (uint32_t)b, (uint32_t)(b >> 32)}, mixed[4];
  philox_block(counter, KEY, mixed);
  return (Philox){{mixed[0], mixed[1]}, {0, 0, mixed[2], mixed[3]}, {0}, 4};
}

static uint32_t draw(Philox *random) {
  if (random->used == 4) {
    philox_block(random->counter, random->key, random->ready);
    for (int i = 0; i < 4 && ++random->counter[i] == 0; i++) {
    }
    random->used = 0;
  }
  return random->ready[random->used++];
}

static float draw_float(Philox *random) {  // in [0, 1)
  uint32_t bits = 0x3f800000u | (draw(random) & 0x7fffffu);
  float value;
  memcpy(&value, &bits, sizeof value);
  return value - 1.0f;
}

static uint32_t draw_below(Philox *random, uint32_t bound) {
  if ((bound & (bound - 1)) == 0) return draw(random) & (bound - 1);
  uint32_t left = UINT32_MAX % bound + 1, value;
  do value = draw(random);
  while (value < left);
  return value % bound;
}

typedef struct {
  int top, left, height, width;
} Box;

static bool try_crop(int width, int height, const float area[2], float aspect, Philox *random, Box *box) {
  const float least = area[0] * width * height, most = area[1] * width * height;
  int crop = (int)lrintf(sqrtf(least / aspect)), limit = (int)lrintf(sqrtf(most / aspect));
  if (lrintf(limit * aspect) > width) {
    const float nearly = 0.0000001f;
    limit = (int)((width + 0.5 - nearly) / aspect);
    if (lrintf(limit * aspect) > width) limit--;
  }
  if (limit > height) limit = height;
  if (crop >= limit) crop = limit;
  if (crop < limit) crop += (int)draw_below(random, (uint32_t)(limit - crop + 1));
  int across = (int)lrintf(crop * aspect);
  float covered = (float)(across * crop);
  if (covered < least) {
    crop++;
    across = (int)lrintf(crop * aspect);
    covered = (float)(across * crop);
  }
  if (covered > most) {
    crop--;
    across = (int)lrintf(crop * aspect);
    covered = (float)(across * crop);
  }
  if (covered < least || covered > most || across > width || crop > height || across <= 0 || crop <= 0) return false;
  *box = (Box){0, 0, crop, across};
  if (crop < height) box->top = (int)draw_below(random, (uint32_t)(height - crop));
  if (across < width) box->left = (int)draw_below(random, (uint32_t)(width - across));
  return true;
}

static Box random_box(int width, int height, const float area[2], const float ratio[2], const int64_t seed[2]) {
  Philox random = philox_of(seed);
  for (int attempt = 0; attempt < 10; attempt++) {
    float aspect = draw_float(&random) * (ratio[1] - ratio[0]) + ratio[0];
    Box box;
    if (try_crop(width, height, area, aspect, &random, &box)) return box;
  }
  return (Box){0, 0, height, width};
}

// ---------------------------------------------------------------------------------------------------------------------
// Images

enum { WHOLE, STRETCHED, RANDOM, MIDDLE, MIDDLE_RESIZED, PARTS };  // which part of an image is wanted, and how
enum { DONE, LEFT, NO_MEMORY };  // LEFT: to the twin
#define MAX_PIXELS (1 << 28)
#define MAX_DECODED (1 << 29)  // values of an image: TensorFlow decodes none of more

typedef struct {
  long part;
  int height, width, channels;  // of the results
  float area[2], ratio[2];
  const float *scale, *shift;  // by channel, or NULL
} Wish;

typedef struct {
  struct jpeg_error_mgr base;
  jmp_buf jump;
} Failing;

static void fail(j_common_ptr info) { longjmp(((Failing *)info->err)->jump, 1); }
static void fail_at_warning(j_common_ptr info, int level) {
  if (level < 0) fail(info);
}

// What a thread keeps from image to image.
typedef struct {
  struct jpeg_decompress_struct info;
  Failing failing;
  Huffman *huffman;
  uint8_t *pixels;  // the decoded part, rows one behind the other, with a few bytes to spare
  size_t room;
  uint8_t *line;  // a row as libjpeg gives it
  size_t line_room;
  uint8_t *rows;  // two rows of the output
  int *lower, *upper;  // by output column: bytes into a row
  float *lerp;         // by output column
  float *above, *below, *factors, *terms;  // rows of the output
  bool avx2;
} Work;

static bool grow(uint8_t **memory, size_t *room, size_t need) {
  if (need <= *room) return true;
  free(*memory);
  *memory = malloc(need);
  *room = *memory == NULL ? 0 : need;
  return *memory != NULL;
}

static bool work_open(Work *work, const Wish *wish) {
  size_t row = (size_t)wish->width * (size_t)wish->channels + 8;
  memset(work, 0, sizeof *work);
#ifdef AVX2
  work->avx2 = __builtin_cpu_supports("avx2");
#endif
  work->info.err = jpeg_std_error(&work->failing.base);
  work->failing.base.error_exit = fail;
  work->failing.base.emit_message = fail_at_warning;
  work->lower = malloc(2 * (size_t)wish->width * sizeof(int));
  work->lerp = malloc((size_t)wish->width * sizeof(float));
  work->above = malloc(4 * row * sizeof(float));
  work->rows = malloc(2 * row);
  work->huffman = calloc(1, sizeof(Huffman));
  if (work->lower == NULL || work->lerp == NULL || work->above == NULL || work->rows == NULL ||
      work->huffman == NULL)
    return false;
  work->upper = work->lower + wish->width;
  work->below = work->above + row;
  work->factors = work->below + row;
  work->terms = work->factors + row;
  for (int x = 0; wish->scale != NULL && x < wish->width * wish->channels; x++) {
    work->factors[x] = wish->scale[x % wish->channels];
    work->terms[x] = wish->shift[x % wish->channels];
  }
  return true;
}

static void work_close(Work *work) {
  free(work->pixels);
  free(work->line);
  free(work->lower);
  free(work->lerp);
  free(work->above);
  free(work->rows);
  free(work->huffman);
}

#ifdef AVX2
// Columns of three channels, two at a time; how many were done. Reads up to a byte behind `upper`'s pixel, and writes
// up to a value behind the last column.
AVX2 static int stretch_pairs(const uint8_t *row, const int *lower, const int *upper, const float *lerp, int width,
                              float *out) {
  int x = 0;
  for (; x + 1 < width; x += 2) {
    int a, b, c, d;
    memcpy(&a, row + lower[x], 4);
    memcpy(&b, row + lower[x + 1], 4);
    memcpy(&c, row + upper[x], 4);
    memcpy(&d, row + upper[x + 1], 4);
    __m256 left = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_insert_epi32(_mm_cvtsi32_si128(a), b, 1)));
    __m256 right = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_insert_epi32(_mm_cvtsi32_si128(c), d, 1)));
    __m256 t = _mm256_setr_m128(_mm_set1_ps(lerp[x]), _mm_set1_ps(lerp[x + 1]));
    __m256 value = _mm256_add_ps(left, _mm256_mul_ps(_mm256_sub_ps(right, left), t));
    _mm_storeu_ps(out + 3 * x, _mm256_castps256_ps128(value));
    _mm_storeu_ps(out + 3 * x + 3, _mm256_extractf128_ps(value, 1));
  }
  return x;
}

// Pixels of three channels, five at a time, all but the first and the last few; how many were done. Writes up to a
// byte behind.
AVX2 static int mirror_fives(const uint8_t *row, int width, uint8_t *out) {
  const __m128i turn = _mm_setr_epi8(12, 13, 14, 9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2, 15);
  if (width < 1) return 0;
  memcpy(out, row + 3 * (width - 1), 3);
  int x = 1;
  for (; x + 5 <= width; x += 5) {
    __m128i five = _mm_loadu_si128((const __m128i *)(row + 3 * (width - 5 - x)));
    _mm_storeu_si128((__m128i *)(out + 3 * x), _mm_shuffle_epi8(five, turn));
  }
  return x;
}
#endif

static int clip(int64_t value, int low, int high) { return value < low ? low : value > high ? high : (int)value; }

static bool choose_box(const Wish *wish, int height, int width, const int64_t *seed, Box *box) {
  switch (wish->part) {
    case RANDOM:
      *box = random_box(width, height, wish->area, wish->ratio, seed);
      return true;
    case MIDDLE:
      if (height < wish->height || width < wish->width) return false;
      *box = (Box){0, 0, wish->height, wish->width};
      break;
    case MIDDLE_RESIZED:
      *box = (Box){0, 0, clip(((int64_t)width * wish->height + wish->width / 2) / wish->width, 1, height),
                   clip(((int64_t)height * wish->width + wish->height / 2) / wish->height, 1, width)};
      break;
    case WHOLE:
      if (height != wish->height || width != wish->width) return false;
      // fall through
    default:
      *box = (Box){0, 0, height, width};
  }
  box->top = (height - box->height) / 2;
  box->left = (width - box->width) / 2;
  return true;
}

// The part of a JPEG that is wanted, into work->pixels.
static int decode_wanted(Work *work, Bytes data, const Wish *wish, const int64_t *seed, Box *box) {
  struct jpeg_decompress_struct *info = &work->info;
  jpeg_mem_src(info, (unsigned char *)data.at, (unsigned long)(data.end - data.at));
  jpeg_read_header(info, TRUE);
  const int height = (int)info->image_height, width = (int)info->image_width, channels = wish->channels;
  const J_COLOR_SPACE space = info->jpeg_color_space;
  if (space != JCS_GRAYSCALE && !(space == JCS_YCbCr && channels == 3)) return LEFT;
  if (info->data_precision != 8 || (int64_t)height * width * channels >= MAX_DECODED) return LEFT;
  if (!choose_box(wish, height, width, seed, box)) return LEFT;
  info->out_color_space = channels == 3 ? JCS_RGB : JCS_GRAYSCALE;
  info->dct_method = JDCT_IFAST;  // TensorFlow's default
  info->do_fancy_upsampling = TRUE;
  const size_t row = (size_t)box->width * (size_t)channels;
  if (!grow(&work->pixels, &work->room, row * (size_t)box->height + 16)) return NO_MEMORY;
  jpeg_start_decompress(info);
  const bool own = huffman_begin(work->huffman, info);
  const bool cropped = wish->part != WHOLE && wish->part != STRETCHED;
  JDIMENSION first = (JDIMENSION)box->left, across = (JDIMENSION)box->width;
  if (cropped) {
    jpeg_crop_scanline(info, &first, &across);
    if (box->top && (int)jpeg_skip_scanlines(info, (JDIMENSION)box->top) != box->top) return LEFT;
  }
  const size_t before = !cropped ? 0 : ((size_t)box->left - first) * (size_t)channels;
  const size_t whole = (size_t)info->output_width * (size_t)info->output_components;
  if (before + row > whole) return LEFT;
  const bool straight = whole == row;
  if (!straight && !grow(&work->line, &work->line_room, whole + 16)) return NO_MEMORY;
  for (int y = 0; y < box->height; y++) {
    uint8_t *out = work->pixels + (size_t)y * row;
    JSAMPROW line = straight ? out : work->line;
    if (jpeg_read_scanlines(info, &line, 1) != 1) return LEFT;
    if (!straight) memcpy(out, work->line + before, row);
  }
  // What lies below a part is not even looked at; a whole image has to end as it should.
  if (box->top + box->height == height) {
    if (own && !huffman_end(work->huffman, info)) return LEFT;
    jpeg_finish_decompress(info);
  }
  return DONE;
}

// The same, with a decompressor that is made anew: another image's tables would be used where this one has none.
static int decode_part(Work *work, Bytes data, const Wish *wish, const int64_t *seed, Box *box) {
  if (data.end - data.at < 4 || data.end - data.at > INT_MAX) return LEFT;
  if (setjmp(work->failing.jump)) {
    jpeg_destroy_decompress(&work->info);
    return LEFT;
  }
  jpeg_create_decompress(&work->info);
  int status = decode_wanted(work, data, wish, seed, box);
  jpeg_destroy_decompress(&work->info);
  return status;
}

// One row made as wide as the output, between its pixels: TensorFlow's bilinear, half-pixel centres.
static void stretch_row(const uint8_t *row, const Work *work, const Wish *wish, float *out) {
  const int channels = wish->channels;
  int x = 0;
#ifdef AVX2
  if (channels == 3 && work->avx2) x = stretch_pairs(row, work->lower, work->upper, work->lerp, wish->width, out);
#endif
  for (; x < wish->width; x++) {
    for (int c = 0; c < channels; c++) {
      float left = row[work->lower[x] + c], right = row[work->upper[x] + c];
      out[x * channels + c] = left + (right - left) * work->lerp[x];
    }
  }
}

WIDE static void between_rows(const float *above, const float *below, float t, int count, uint8_t *out) {
  for (int x = 0; x < count; x++) out[x] = (uint8_t)(int)(above[x] + (below[x] - above[x]) * t + 0.5f);
}

WIDE static void normalize_row(const uint8_t *row, const Work *work, int count, float *out) {
  for (int x = 0; x < count; x++) out[x] = (float)row[x] * work->factors[x] - work->terms[x];
}

static void mirror_row(const uint8_t *row, const Work *work, const Wish *wish, uint8_t *out) {
  const int width = wish->width, channels = wish->channels;
  int x = 0;
#ifdef AVX2
  if (channels == 3 && work->avx2) x = mirror_fives(row, width, out);
#endif
  for (; x < width; x++)
    for (int c = 0; c < channels; c++) out[x * channels + c] = row[(width - 1 - x) * channels + c];
}

// The decoded part of an image, stretched to the wanted size, turned and normalised, to its place in the batch.
static void finish_image(Work *work, const Wish *wish, Box box, bool mirrored, bool upturned, void *out) {
  const int channels = wish->channels, count = wish->width * channels;
  const size_t width = wish->scale == NULL ? 1 : sizeof(float), source = (size_t)box.width * (size_t)channels;
  const bool resize = box.height != wish->height || box.width != wish->width;
  float across = (float)box.width / (float)wish->width, down = (float)box.height / (float)wish->height;
  for (int x = 0; resize && x < wish->width; x++) {
    float in = ((float)x + 0.5f) * across - 0.5f, floor = floorf(in);
    int lower = (int)floor > 0 ? (int)floor : 0, upper = (int)ceilf(in);
    work->lower[x] = lower * channels;
    work->upper[x] = (upper < box.width - 1 ? upper : box.width - 1) * channels;
    work->lerp[x] = in - floor;
  }
  int held[2] = {-1, -1};  // which rows `above` and `below` are of
  float *above = work->above, *below = work->below;
  uint8_t *plain = work->rows, *turned = work->rows + count + 8;
  for (int y = 0; y < wish->height; y++) {
    const uint8_t *row = work->pixels + (size_t)y * source;
    if (resize) {
      float in = ((float)y + 0.5f) * down - 0.5f, floor = floorf(in);
      int lower = (int)floor > 0 ? (int)floor : 0, upper = (int)ceilf(in);
      if (upper > box.height - 1) upper = box.height - 1;
      if (held[0] != lower && held[1] == lower) {
        float *other = above;
        above = below;
        below = other;
        held[0] = lower;
        held[1] = -1;
      }
      if (held[0] != lower) stretch_row(work->pixels + (size_t)lower * source, work, wish, above);
      if (upper != lower && held[1] != upper) {
        stretch_row(work->pixels + (size_t)upper * source, work, wish, below);
        held[1] = upper;
      }
      held[0] = lower;
      between_rows(above, upper == lower ? above : below, in - floor, count, plain);
      row = plain;
    }
    char *place = (char *)out + (size_t)(upturned ? wish->height - 1 - y : y) * (size_t)count * width;
    if (mirrored) {
      // At once to its place where the byte that may be written behind it is of a row that is still to come.
      const bool straight = wish->scale == NULL && !upturned && y + 1 < wish->height;
      mirror_row(row, work, wish, straight ? (uint8_t *)place : turned);
      if (straight) continue;
      row = turned;
    }
    if (wish->scale == NULL)
      memcpy(place, row, (size_t)count);
    else
      normalize_row(row, work, count, (float *)place);
  }
}

static PyObject *decode(PyObject *module, PyObject *args) {
  (void)module;
  PyObject *buffers, *spans_, *out_, *seeds_, *mirror_, *upturn_, *scale_, *shift_, *status_;
  Wish wish = {0};
  if (!PyArg_ParseTuple(args, "O!OO(iii)l(ff)(ff)OOOOOO", &PyList_Type, &buffers, &spans_, &out_, &wish.height,
                        &wish.width, &wish.channels, &wish.part, &wish.area[0], &wish.area[1], &wish.ratio[0],
                        &wish.ratio[1], &seeds_, &mirror_, &upturn_, &scale_, &shift_, &status_))
    return NULL;
  Py_ssize_t count;
  const float *area = wish.area, *ratio = wish.ratio;
  bool crops = 0 <= area[0] && area[0] <= area[1] && area[1] <= 1 && 1e-3f <= ratio[0] && ratio[0] <= ratio[1] &&
               ratio[1] <= 1e3f;  // with others, numbers would leave what an int holds
  if (wish.height < 1 || wish.width < 1 || wish.part < WHOLE || wish.part >= PARTS || !crops ||
      (wish.channels != 1 && wish.channels != 3) ||
      (int64_t)wish.height * wish.width > MAX_PIXELS || (wish.part == RANDOM && seeds_ == Py_None) ||
      (scale_ == Py_None) != (shift_ == Py_None)) {
    PyErr_SetString(PyExc_ValueError, "these arguments do not fit each other");
    return NULL;
  }
  Py_ssize_t width = scale_ == Py_None ? 1 : (Py_ssize_t)sizeof(float), channels = wish.channels;
  Py_ssize_t each = (Py_ssize_t)wish.height * wish.width * channels * width;
  Views views;
  if (!views_open(&views, 8)) return NULL;
  PyObject *result = NULL;
  const int64_t *spans = spans_of(&views, spans_, &count);
  uint8_t *out = spans == NULL ? NULL : view_of(&views, out_, true, count * each);
  uint8_t *status = view_of(&views, status_, true, count);
  const int64_t *seeds = view_of(&views, seeds_, false, count * 16);
  const uint8_t *mirror = view_of(&views, mirror_, false, count), *upturn = view_of(&views, upturn_, false, count);
  wish.scale = view_of(&views, scale_, false, channels * 4);
  wish.shift = view_of(&views, shift_, false, channels * 4);
  Part *parts = NULL;
  if (!PyErr_Occurred() && (out == NULL || status == NULL)) PyErr_SetString(PyExc_TypeError, "an array is needed");
  if (!PyErr_Occurred()) parts = parts_of(buffers, spans, count);
  if (!PyErr_Occurred()) {
    bool memory;
    Py_BEGIN_ALLOW_THREADS;
    Work work;
    memory = work_open(&work, &wish);
    for (Py_ssize_t i = 0; memory && i < count; i++) {
      Bytes data = {parts[i].at, parts[i].end};
      Box box;
      status[i] = (uint8_t)decode_part(&work, data, &wish, seeds == NULL ? NULL : seeds + 2 * i, &box);
      memory = status[i] != NO_MEMORY;
      if (status[i] == DONE)
        finish_image(&work, &wish, box, mirror != NULL && mirror[i], upturn != NULL && upturn[i], out + i * each);
    }
    work_close(&work);
    Py_END_ALLOW_THREADS;
    result = memory ? Py_NewRef(Py_None) : PyErr_NoMemory();
  }
  PyMem_Free(parts);
  views_close(&views);
  return result;
}

// ---------------------------------------------------------------------------------------------------------------------
// Cached images

static PyObject *gather(PyObject *module, PyObject *args) {
  (void)module;
  PyObject *store_, *places_, *out_, *mirror_, *upturn_, *scale_, *shift_;
  Wish wish = {0};
  if (!PyArg_ParseTuple(args, "OOO(iii)OOOO", &store_, &places_, &out_, &wish.height, &wish.width,
                        &wish.channels, &mirror_, &upturn_, &scale_, &shift_))
    return NULL;
  if (wish.height < 1 || wish.width < 1 || wish.channels < 1 || wish.channels > 4 ||
      (int64_t)wish.height * wish.width > MAX_PIXELS || (scale_ == Py_None) != (shift_ == Py_None)) {
    PyErr_SetString(PyExc_ValueError, "these arguments do not fit each other");
    return NULL;
  }
  Py_ssize_t row = (Py_ssize_t)wish.width * wish.channels, each = row * wish.height;
  Py_ssize_t width = scale_ == Py_None ? 1 : (Py_ssize_t)sizeof(float);
  Views views;
  if (!views_open(&views, 7)) return NULL;
  PyObject *result = NULL;
  const uint8_t *store = view_of(&views, store_, false, 0);
  Py_ssize_t stored = store == NULL ? 0 : views.views[0].len / each;
  const int64_t *places = store == NULL ? NULL : view_of(&views, places_, false, 0);
  Py_ssize_t count = places == NULL ? 0 : views.views[1].len / 8;
  uint8_t *out = view_of(&views, out_, true, count * each * width);
  const uint8_t *mirror = view_of(&views, mirror_, false, count), *upturn = view_of(&views, upturn_, false, count);
  wish.scale = view_of(&views, scale_, false, wish.channels * 4);
  wish.shift = view_of(&views, shift_, false, wish.channels * 4);
  if (!PyErr_Occurred() && (store == NULL || out == NULL || places == NULL))
    PyErr_SetString(PyExc_TypeError, "an array is needed");
  for (Py_ssize_t i = 0; !PyErr_Occurred() && i < count; i++)
    if (places[i] < 0 || places[i] >= stored) PyErr_SetString(PyExc_IndexError, "there is no such place");
  if (!PyErr_Occurred()) {
    bool memory;
    Py_BEGIN_ALLOW_THREADS;
    Work work;
    memory = work_open(&work, &wish);
    for (Py_ssize_t i = 0; memory && i < count; i++) {
      work.pixels = (uint8_t *)store + places[i] * each;
      finish_image(&work, &wish, (Box){0, 0, wish.height, wish.width}, mirror != NULL && mirror[i],
                   upturn != NULL && upturn[i], out + i * each * width);
    }
    work.pixels = NULL;
    work_close(&work);
    Py_END_ALLOW_THREADS;
    result = memory ? Py_NewRef(Py_None) : PyErr_NoMemory();
  }
  views_close(&views);
  return result;
}

static PyMethodDef METHODS[] = {
    {"read", read_ranges, METH_VARARGS, "read(ranges): see _native.pyi."},
    {"check", check, METH_VARARGS, "check(buffers, spans, status): see _native.pyi."},
    {"parse", parse, METH_VARARGS, "parse(buffers, spans, fields): see _native.pyi."},
    {"slices", slices, METH_VARARGS, "slices(buffers, spans): see _native.pyi."},
    {"decode", decode, METH_VARARGS, "decode(...): see _native.pyi."},
    {"gather", gather, METH_VARARGS, "gather(...): see _native.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "_native", "The loader's inner loops; see native.c.", -1, METHODS, NULL, NULL, NULL, NULL};

__attribute__((visibility("default"))) PyObject *PyInit__native(void);
PyObject *PyInit__native(void) {
  crc_begin();
#ifdef AVX2
  lanes_begin();
#endif
  return PyModule_Create(&MODULE);
}
