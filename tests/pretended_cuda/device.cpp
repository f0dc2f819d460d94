// A CUDA device that is not there: tensors say cuda:0, lie in the host's memory and are computed by
// the kernels of the CPU. device.py says what is imitated and what is not.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <atomic>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

const c10::Device CUDA(c10::DeviceType::CUDA, 0), CPU(c10::DeviceType::CPU);

// --- Who is told of what the device does -------------------------------------------------------

// event: "launch", "view" or "sync"; what: the operator, and for a sync its cause.
using Observer = void (*)(const char* event, const char* what);
std::atomic<Observer> observer{nullptr};

void tell(const char* event, const std::string& what) {
  if (Observer told = observer.load()) told(event, what.c_str());
}

// --- Memory --------------------------------------------------------------------------------------

// Memory of the host under the label of a device; the owner goes with it.
at::DataPtr labelled(void* data, c10::Storage owner, c10::Device device) {
  auto* kept = new c10::Storage(std::move(owner));
  return {data, kept, [](void* p) { delete static_cast<c10::Storage*>(p); }, device};
}

struct DeviceAllocator final : c10::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    auto* kept = new at::DataPtr(c10::GetCPUAllocator()->allocate(bytes));
    return {kept->get(), kept, [](void* p) { delete static_cast<at::DataPtr*>(p); }, CUDA};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
} device_allocator;

[[maybe_unused]] const bool allocator_is_set =
    (c10::SetAllocator(c10::DeviceType::CUDA, &device_allocator), true);

std::mutex pinned_lock;
std::set<const void*> pinned;

struct PinnedAllocator final : c10::Allocator {
  struct Block {
    at::DataPtr memory;
    ~Block() {
      std::lock_guard<std::mutex> guard(pinned_lock);
      pinned.erase(memory.get());
    }
  };
  at::DataPtr allocate(size_t bytes) override {
    auto* block = new Block{c10::GetCPUAllocator()->allocate(bytes)};
    std::lock_guard<std::mutex> guard(pinned_lock);
    pinned.insert(block->memory.get());
    return {block->memory.get(), block, [](void* p) { delete static_cast<Block*>(p); }, CPU};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
} pinned_allocator;

bool is_pinned(const void* data) {
  std::lock_guard<std::mutex> guard(pinned_lock);
  return pinned.count(data) != 0;
}

// --- Randomness ----------------------------------------------------------------------------------

struct DeviceGenerator final : c10::GeneratorImpl {
  explicit DeviceGenerator(at::Generator own)
      : GeneratorImpl(CUDA, c10::DispatchKeySet(c10::DispatchKey::CUDA)), inner(std::move(own)) {}
  void set_current_seed(uint64_t seed) override { inner.set_current_seed(seed); }
  void set_offset(uint64_t offset) override { inner.set_offset(offset); }
  uint64_t get_offset() const override { return inner.get_offset(); }
  uint64_t current_seed() const override { return inner.current_seed(); }
  uint64_t seed() override { return inner.unsafeGetGeneratorImpl()->seed(); }
  void set_state(const c10::TensorImpl& state) override {
    inner.unsafeGetGeneratorImpl()->set_state(state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return inner.unsafeGetGeneratorImpl()->get_state();
  }
  GeneratorImpl* clone_impl() const override { return new DeviceGenerator(inner.clone()); }
  at::Generator inner;
};

at::Generator new_generator() {
  return at::make_generator<DeviceGenerator>(at::detail::createCPUGenerator());
}

const at::Generator& default_generator() {
  static const at::Generator generator = new_generator();
  return generator;
}

at::Generator inner(const at::Generator& generator, const c10::FunctionSchema& schema) {
  TORCH_CHECK(
      generator.device().is_cuda(),
      "Expected a 'cuda' device type for generator but found '", generator.device().type(),
      "' in ", schema.name());
  return static_cast<DeviceGenerator*>(generator.unsafeGetGeneratorImpl())->inner;
}

// Operators without a generator draw from the default one: the device's, not the host's.
struct DefaultGenerators {
  explicit DefaultGenerators(bool draws) : draws(draws) { exchange(); }
  ~DefaultGenerators() { exchange(); }
  void exchange() {
    if (!draws) return;
    at::Generator host = at::detail::getDefaultCPUGenerator();
    auto* device = static_cast<DeviceGenerator*>(default_generator().unsafeGetGeneratorImpl());
    auto state = host.get_state();
    host.set_state(device->inner.get_state());
    device->inner.set_state(state);
  }
  bool draws;
};

// --- The device ------------------------------------------------------------------------------------

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = c10::DeviceType::CUDA;
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, CUDA); }
  c10::DeviceType type() const override { return c10::DeviceType::CUDA; }
  c10::Device exchangeDevice(c10::Device) const override { return CUDA; }
  c10::Device getDevice() const override { return CUDA; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const override { return stream(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag)
      const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { tell("sync", "stream"); }
  void synchronizeEvent(void*) const override { tell("sync", "event"); }
  void synchronizeDevice(const c10::DeviceIndex) const override { tell("sync", "device"); }
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return default_generator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return new_generator(); }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  c10::Device getDeviceFromPtr(void*) const override { return CUDA; }
  void deviceSynchronize(c10::DeviceIndex) const override { tell("sync", "device"); }
};

// --- A call on the device --------------------------------------------------------------------------

at::Tensor tensor_in(c10::Storage storage, const at::Tensor& like, c10::DispatchKey key) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(key), like.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(
      like.sizes(), like.strides(), like.storage_offset());
  return made;
}

c10::Storage storage_on(const c10::Storage& owner, c10::Device device, c10::Allocator* allocator) {
  return c10::Storage(
      c10::Storage::use_byte_size_t(), owner.nbytes(),
      labelled(const_cast<void*>(owner.data()), owner, device), allocator, /*resizable=*/true);
}

// The arguments of one call as tensors of the CPU in the same memory, and its results back.
class Call {
 public:
  at::Tensor host(const at::Tensor& tensor) {
    if (!tensor.defined() || !tensor.is_cuda()) return tensor;
    for (auto& [own, as] : tensors)
      if (own.is_same(tensor)) return as;
    TORCH_CHECK(tensor.layout() == c10::kStrided, "pretended CUDA has strided tensors only");
    tensors.emplace_back(tensor, tensor_in(host(tensor.storage()), tensor, c10::DispatchKey::CPU));
    return tensors.back().second;
  }

  at::Tensor device(const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    for (auto& [own, as] : tensors)
      if (as.is_same(tensor)) return own;
    for (auto& [own, as] : storages)
      if (as.is_alias_of(tensor.storage()) || as.data() == tensor.storage().data()) {
        aliased = true;
        return tensor_in(own, tensor, c10::DispatchKey::CUDA);
      }
    fresh = true;
    return tensor_in(
        storage_on(tensor.storage(), CUDA, &device_allocator), tensor, c10::DispatchKey::CUDA);
  }

  c10::Storage host(const c10::Storage& storage) {
    if (storage.device_type() != c10::DeviceType::CUDA) return storage;
    for (auto& [own, as] : storages)
      if (own.is_alias_of(storage)) return as;
    storages.emplace_back(storage, storage_on(storage, CPU, c10::GetCPUAllocator()));
    return storages.back().second;
  }

  // What an operator did to the shape or the memory of an argument is done to the argument itself.
  void put_back() {
    for (auto& [own, as] : storages)
      if (own.data() != as.data() || own.nbytes() != as.nbytes()) {
        own.set_data_ptr_noswap(labelled(as.mutable_data(), as, CUDA));
        own.set_nbytes(as.nbytes());
      }
    for (auto& [tensor, as] : tensors) {
      auto* impl = tensor.unsafeGetTensorImpl();
      for (auto& [own, storage] : storages)
        if (storage.is_alias_of(as.storage()) && !own.is_alias_of(tensor.storage()))
          impl->set_storage_keep_dtype(own);
      if (tensor.sizes() != as.sizes() || tensor.strides() != as.strides() ||
          tensor.storage_offset() != as.storage_offset())
        impl->set_sizes_and_strides(as.sizes(), as.strides(), as.storage_offset());
    }
  }

  bool aliased = false, fresh = false;

 private:
  std::vector<std::pair<at::Tensor, at::Tensor>> tensors;
  std::vector<std::pair<c10::Storage, c10::Storage>> storages;
};

template <typename F>
c10::IValue over_tensors(const c10::IValue& value, F&& f) {
  if (value.isTensor()) return f(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& t : value.toTensorVector()) list.push_back(f(t));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const std::optional<at::Tensor>& t : value.toOptionalTensorList().vec())
      list.push_back(t ? std::optional<at::Tensor>(f(*t)) : std::nullopt);
    return list;
  }
  return value;
}

bool starts(const std::string& text, const char* with) { return text.rfind(with, 0) == 0; }

const std::set<std::string> NO_KERNEL{
    "empty", "empty_strided", "resize_", "set_", "_local_scalar_dense", "_resize_output_"};
const std::set<std::string> WAIT{
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "bincount",
    "unique_dim", "unique_consecutive", "unique_dim_consecutive", "_unique", "_unique2",
    "repeat_interleave"};
const std::set<std::string> INDEXING{"index", "_index_put_impl_", "_unsafe_index_put"};

// A CPU tensor beside CUDA ones: a number may be, as in CUDA's element-wise kernels.
void check_devices(
    const std::string& name, const c10::FunctionSchema& schema, at::ArrayRef<c10::IValue> args) {
  const bool of_lists = starts(name, "_foreach_") || starts(name, "_fused_") ||
      starts(name, "_amp_") || name == "cat" || name == "stack";
  for (size_t i = 0; i < args.size(); ++i) {
    if (INDEXING.count(name) && i == 1) continue;
    over_tensors(args[i], [&](const at::Tensor& t) {
      const auto* alias = schema.arguments()[i].alias_info();
      TORCH_CHECK(
          !t.defined() || t.is_cuda() ||
              (t.is_cpu() && t.dim() == 0 && !of_lists && !(alias && alias->isWrite())),
          "Expected all tensors to be on the same device, but found at least two devices, cuda:0 "
          "and ", t.device(), " (", schema.name(), ", argument '", schema.arguments()[i].name(),
          "', shape ", t.sizes(), ")");
      return t;
    });
  }
}

// Indices from the host are copied; a mask is turned to indices, whose number the host must know.
void tell_indices(const std::string& name, at::ArrayRef<c10::IValue> args) {
  const bool puts = name != "index";
  const bool number = puts && args[2].toTensor().is_cpu();
  for (const std::optional<at::Tensor>& index : args[1].toOptionalTensorList().vec()) {
    if (!index || !index->defined()) continue;
    const bool mask = index->scalar_type() == at::kBool || index->scalar_type() == at::kByte;
    if (index->is_cpu()) tell("sync", "index from the host");
    if (mask && !number) tell("sync", "mask as an index");
  }
}

void run(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::FunctionSchema& schema = op.schema();
  const std::string name = schema.name().substr(schema.name().find("::") + 2);
  const size_t count = schema.arguments().size();
  const std::vector<c10::IValue> args(stack->end() - count, stack->end());
  torch::jit::drop(*stack, count);
  check_devices(name, schema, args);
  if (INDEXING.count(name)) tell_indices(name, args);
  if (WAIT.count(name) && !(name == "repeat_interleave" && !args.back().isNone()))
    tell("sync", name);

  Call call;
  bool given = false;
  for (size_t i = 0; i < count; ++i) {
    const c10::IValue& arg = args[i];
    if (arg.isDevice()) {
      stack->emplace_back(CPU);
    } else if (arg.isStorage()) {
      stack->emplace_back(call.host(arg.toStorage()));
    } else if (arg.isGenerator()) {
      given = true;
      stack->emplace_back(inner(arg.toGenerator(), schema));
    } else {
      stack->push_back(over_tensors(arg, [&](const at::Tensor& t) { return call.host(t); }));
    }
  }
  {
    DefaultGenerators ours(!given && op.hasTag(at::Tag::nondeterministic_seeded));
    op.callBoxed(stack);
  }
  const size_t results = schema.returns().size();
  for (size_t i = stack->size() - results; i < stack->size(); ++i)
    (*stack)[i] = over_tensors((*stack)[i], [&](const at::Tensor& t) { return call.device(t); });
  call.put_back();
  if (NO_KERNEL.count(name)) return;
  const bool view = call.aliased && !call.fresh && !schema.is_mutable();
  tell(view ? "view" : "launch", name);
}

at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  static const auto op = c10::Dispatcher::singleton()
      .findSchemaOrThrow("aten::copy_", "")
      .typed<at::Tensor&(at::Tensor&, const at::Tensor&, bool)>();
  const at::Tensor& on_host = self.is_cuda() ? source : self;
  if (!on_host.is_cuda()) {
    const bool waits = !non_blocking || !is_pinned(on_host.storage().data());
    const char* way = self.is_cuda() ? "copy to the device" : "copy to the host";
    if (waits && self.numel() != 0) tell("sync", way);
  }
  if (self.is_cuda()) tell("launch", "copy_");
  Call call;
  at::Tensor to = call.host(self);
  op.call(to, call.host(source), non_blocking);
  return self;
}

at::Generator the_default_generator() { return default_generator(); }

}  // namespace

namespace at {
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks)
}  // namespace at

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&run>()); }

// Where CUDA has a kernel of its own, it is one launch, whatever the operator is made of elsewhere.
TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const c10::OperatorName& full : dispatcher.getAllOpNames()) {
    if (!starts(full.name, "aten::") || full == c10::OperatorName("aten::copy_", "")) continue;
    const std::string name = full.name.substr(6);
    const auto op = dispatcher.findOp(full);
    if (!op || !op->hasSchema()) continue;
    if (op->hasKernelForDispatchKey(c10::DispatchKey::CPU) || starts(name, "_foreach_") ||
        name == "convolution" || name == "convolution_backward")
      m.impl(
          full.overload_name.empty() ? name.c_str()
                                     : (name + "." + full.overload_name).c_str(),
          torch::CppFunction::makeFromBoxedFunction<&run>());
  }
  m.impl("copy_", &copy_);
}

TORCH_LIBRARY(pretended_cuda, m) { m.def("default_generator() -> Generator?", &the_default_generator); }

extern "C" void pretended_cuda_observe(Observer told) { observer.store(told); }
