# Print what a Vagrantfile asks of each provider, as JSON, without the provider being installed.
#
#   ruby providers.rb VAGRANTFILE PROVIDER...
#
# Vagrant itself reads a provider's block only where that provider's plug-in is.
require "json"

# Takes any setting; those of a provider stand for themselves.
class Settings
  attr_reader :set

  def initialize
    @set = {}
  end

  def vmx
    @set
  end

  def method_missing(name, *values)
    raise NoMethodError, "#{name} is not a setting" unless name.end_with?("=")
    @set[name.to_s.chomp("=")] = values.first
  end

  def respond_to_missing?(name, _private = false)
    name.end_with?("=")
  end
end

class Machine < Settings
  attr_reader :folders, :scripts, :providers

  def initialize
    super
    @folders = {}
    @scripts = []
    @providers = {}
  end

  def vm
    self
  end

  def synced_folder(from, to, **options)
    @folders[to] = { from: from, **options }
  end

  def provision(kind, **options)
    @scripts << { kind: kind, **options }
  end

  def provider(name, &block)
    @providers[name] = block
  end
end

module Vagrant
  def self.configure(_version, &block)
    @block = block
  end

  def self.machine(provider)
    machine = Machine.new
    @block.call(machine)
    block = machine.providers.fetch(provider)
    settings = Settings.new
    block.arity == 1 ? block.call(settings) : block.call(settings, machine)
    {
      providers: machine.providers.keys, settings: settings.set, machine: machine.set,
      folders: machine.folders, scripts: machine.scripts
    }
  end
end

load ARGV.shift
puts JSON.generate(ARGV.to_h { |provider| [provider, Vagrant.machine(provider)] })
