/* A stand-in for libnvidia-ml.so.1: the calls that trackside makes, with the signatures and the
 * layout of structures of NVML's own header (API reference, docs.nvidia.com/deploy/nvml-api).
 *
 * What the GPUs say stands in the file that FAKE_NVML names, read anew at every call, one
 * "key value" a line:
 *
 *   count 2
 *   0.utilization 37        a missing key is NVML_ERROR_NOT_SUPPORTED
 *   0.process.4711 1048576  bytes on this GPU; -1 for "not available"
 *   0.lost 1                every call for this GPU fails with NVML_ERROR_GPU_IS_LOST
 *   0.unreachable 1        no handle is given for this GPU
 *   0.xid 79                an event, told once for each change of the value
 *   hang 1                  nvmlDeviceGetCount never returns
 *   crash 1                 nvmlDeviceGetCount aborts
 *   no.<function> 1         that function fails with NVML_ERROR_FUNCTION_NOT_FOUND
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int nvmlReturn_t;
typedef struct device *nvmlDevice_t;
typedef struct events *nvmlEventSet_t;
enum {
    SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9, TIMEOUT = 10, FUNCTION_NOT_FOUND = 13, GPU_IS_LOST = 15,
    ARGUMENT_VERSION_MISMATCH = 25
};
enum { MAX_GPUS = 8, XID = 8, LINE = 256 };

struct device { unsigned index; long long xid; int is_registered; };
static struct device devices[MAX_GPUS];

typedef struct { unsigned gpu, memory; } nvmlUtilization_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { unsigned pid; unsigned long long usedGpuMemory; unsigned gi, ci; } nvmlProcessInfo_t;
typedef struct { unsigned version; int sensor; int temperature; } nvmlTemperature_v1_t;
typedef struct { unsigned version; int margin; } nvmlMarginTemperature_v1_t;
typedef struct {
    nvmlDevice_t device; unsigned long long eventType, eventData; unsigned gi, ci;
} nvmlEventData_t;

/* Find a line that begins with the key and a space; copy what follows. */
static int text(const char *key, char *value, size_t size)
{
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[LINE];
    int found = 0;
    while (file && !found && fgets(line, sizeof line, file)) {
        size_t length = strlen(key);
        if (!strncmp(line, key, length) && line[length] == ' ') {
            snprintf(value, size, "%s", line + length + 1);
            value[strcspn(value, "\n")] = 0;
            found = 1;
        }
    }
    if (file)
        fclose(file);
    return found;
}

static int number(const char *key, long long *value)
{
    char found[LINE];
    if (!text(key, found, sizeof found))
        return 0;
    *value = atoll(found);
    return 1;
}

static int is_missing(const char *function)
{
    char key[LINE];
    long long value;
    snprintf(key, sizeof key, "no.%s", function);
    return number(key, &value);
}

static nvmlReturn_t field(nvmlDevice_t device, const char *name, long long *value)
{
    char key[LINE];
    long long lost;
    snprintf(key, sizeof key, "%u.lost", device->index);
    if (number(key, &lost))
        return GPU_IS_LOST;
    snprintf(key, sizeof key, "%u.%s", device->index, name);
    return number(key, value) ? SUCCESS : NOT_SUPPORTED;
}

nvmlReturn_t nvmlInitWithFlags(unsigned flags)
{
    long long value;
    (void)flags;
    for (unsigned i = 0; i < MAX_GPUS; i++)
        devices[i].index = i;
    return number("count", &value) ? SUCCESS : DRIVER_NOT_LOADED;
}

nvmlReturn_t nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(nvmlReturn_t code) { return code == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "Fake Error"; }

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count)
{
    long long value;
    if (number("crash", &value))
        abort();
    while (number("hang", &value))
        pause();
    if (!number("count", &value))
        return DRIVER_NOT_LOADED;
    *count = (unsigned)value;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device)
{
    char key[LINE];
    long long value;
    if (index >= MAX_GPUS)
        return INVALID_ARGUMENT;
    snprintf(key, sizeof key, "%u.unreachable", index);
    if (number(key, &value))
        return GPU_IS_LOST;
    *device = &devices[index];
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned *index)
{
    *index = device->index;
    return SUCCESS;
}

static nvmlReturn_t word(nvmlDevice_t device, const char *name, char *value, unsigned size)
{
    char key[LINE];
    snprintf(key, sizeof key, "%u.%s", device->index, name);
    return text(key, value, size) ? SUCCESS : NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *value, unsigned size)
{
    return word(device, "uuid", value, size);
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *value, unsigned size)
{
    return word(device, "name", value, size);
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates)
{
    long long value;
    nvmlReturn_t code = field(device, "utilization", &value);
    if (code == SUCCESS)
        *rates = (nvmlUtilization_t){ (unsigned)value, 1 };
    return code;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    long long total, used;
    nvmlReturn_t code = field(device, "memory_total", &total);
    if (code == SUCCESS)
        code = field(device, "memory_used_and_reserved", &used);
    if (code == SUCCESS)
        *memory = (nvmlMemory_t){ (unsigned long long)total, (unsigned long long)(total - used), (unsigned long long)used };
    return code;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    long long total, used;
    nvmlReturn_t code;
    if (is_missing("nvmlDeviceGetMemoryInfo_v2"))
        return FUNCTION_NOT_FOUND;
    if (memory->version != (sizeof *memory | 2u << 24))
        return ARGUMENT_VERSION_MISMATCH;
    code = field(device, "memory_total", &total);
    if (code == SUCCESS)
        code = field(device, "memory_used", &used);
    if (code == SUCCESS) {
        memory->total = (unsigned long long)total;
        memory->used = (unsigned long long)used;
        memory->free = (unsigned long long)(total - used);
        memory->reserved = 0;
    }
    return code;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned *celsius)
{
    long long value;
    nvmlReturn_t code = sensor ? INVALID_ARGUMENT : field(device, "temperature", &value);
    if (code == SUCCESS)
        *celsius = (unsigned)value;
    return code;
}

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_v1_t *temperature)
{
    unsigned celsius;
    nvmlReturn_t code;
    if (is_missing("nvmlDeviceGetTemperatureV"))
        return FUNCTION_NOT_FOUND;
    if (temperature->version != (sizeof *temperature | 1u << 24))
        return ARGUMENT_VERSION_MISMATCH;
    code = nvmlDeviceGetTemperature(device, temperature->sensor, &celsius);
    if (code == SUCCESS)
        temperature->temperature = (int)celsius;
    return code;
}

nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, int threshold, unsigned *celsius)
{
    long long value;
    nvmlReturn_t code = threshold == 1 ? field(device, "slowdown", &value) : INVALID_ARGUMENT;
    if (code == SUCCESS)
        *celsius = (unsigned)value;
    return code;
}

nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t device, nvmlMarginTemperature_v1_t *margin)
{
    long long value;
    nvmlReturn_t code = field(device, "margin", &value);
    if (code == SUCCESS)
        margin->margin = (int)value;
    return code;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *milliwatts)
{
    long long value;
    nvmlReturn_t code = field(device, "milliwatts", &value);
    if (code == SUCCESS)
        *milliwatts = (unsigned)value;
    return code;
}

nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *bits)
{
    long long value;
    nvmlReturn_t code = field(device, "reasons", &value);
    if (code == SUCCESS)
        *bits = (unsigned long long)value;
    return code;
}

nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *bits)
{
    if (is_missing("nvmlDeviceGetCurrentClocksEventReasons"))
        return FUNCTION_NOT_FOUND;
    return nvmlDeviceGetCurrentClocksThrottleReasons(device, bits);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *found)
{
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[LINE];
    unsigned room = *count, pid, index;
    long long bytes;
    if (field(device, "name", &bytes) == GPU_IS_LOST) {
        if (file)
            fclose(file);
        return GPU_IS_LOST;
    }
    *count = 0;
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%u.process.%u %lld", &index, &pid, &bytes) != 3 || index != device->index)
            continue;
        if (*count < room)
            found[*count] = (nvmlProcessInfo_t){ pid, (unsigned long long)bytes, ~0u, ~0u };
        ++*count;
    }
    if (file)
        fclose(file);
    return *count > room ? INSUFFICIENT_SIZE : SUCCESS;
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    *set = (nvmlEventSet_t)devices;
    return SUCCESS;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) { (void)set; return SUCCESS; }

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set)
{
    (void)set;
    device->is_registered = (types & XID) != 0;
    return SUCCESS;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *event, unsigned milliseconds)
{
    (void)set;
    (void)milliseconds;
    for (unsigned i = 0; i < MAX_GPUS; i++) {
        long long xid;
        if (devices[i].is_registered && field(&devices[i], "xid", &xid) == SUCCESS && xid != devices[i].xid) {
            devices[i].xid = xid;
            *event = (nvmlEventData_t){ &devices[i], XID, (unsigned long long)xid, ~0u, ~0u };
            return SUCCESS;
        }
    }
    return TIMEOUT;
}
